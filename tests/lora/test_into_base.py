import pytest
import torch
from safetensors.torch import load_file, save_file

from limner.errors import BadBase, BadLora
from limner.lora import into_base
from limner.lora.adapters import Dora, to_lora
from limner.lora.into_base import merge_into_base
from limner.lora.weights import open_base
from limner.models.facts import RegisteredBase
from limner.models.registry import registered_bases
from limner.models.source import locate
from loras import dora, factors, loha, lokr
from messages import raises


def native_flux(path, dtype=torch.float32):
    torch.manual_seed(0)
    shapes = {
        "double_blocks.0.img_attn.qkv.weight": (24, 8),
        "double_blocks.0.img_attn.qkv.bias": (24,),
        "final_layer.adaLN_modulation.1.weight": (16, 8),
        "img_in.weight": (8, 8),
        "txt_in.weight": (8, 8),
    }
    save_file({name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}, path, {"who": "me"})
    return path


ADAPTER = {
    "transformer_blocks.0.attn.to_q": factors(),
    "transformer_blocks.0.attn.to_v": loha(),
    "norm_out.linear": factors(16),
    "x_embedder": dora(),
    "context_embedder": Dora(lokr(), torch.linspace(0.5, 1.5, 8), "in"),
}


def test_every_kind_goes_to_its_rows_of_the_authors_weights(tmp_path) -> None:
    base = native_flux(tmp_path / "base.safetensors")
    out = tmp_path / "new" / "baked.safetensors"
    assert merge_into_base(base, open_base(base), {"transformer": ADAPTER}, out, 0.5) == 4
    before, after = load_file(base), load_file(out)
    qkv, modulation = "double_blocks.0.img_attn.qkv.weight", "final_layer.adaLN_modulation.1.weight"
    moved = (after[qkv] - before[qkv]).double()
    assert torch.allclose(moved[:8], 0.5 * factors().dense(), atol=1e-5)
    assert not moved[8:16].any()
    assert torch.allclose(moved[16:], 0.5 * to_lora(loha()).dense(), atol=1e-5)
    wanted = 0.5 * torch.cat(factors(16).dense().chunk(2)[::-1])
    assert torch.allclose((after[modulation] - before[modulation]).double(), wanted, atol=1e-5)
    start = before["img_in.weight"].double()
    assert torch.allclose(
        after["img_in.weight"].double(), start + 0.5 * (dora().over(start) - start), atol=1e-5
    )
    start, lokr_dora = before["txt_in.weight"].double(), ADAPTER["context_embedder"]
    wanted = start + 0.5 * (lokr_dora.over(start) - start)
    assert torch.allclose(after["txt_in.weight"].double(), wanted, atol=1e-5)
    assert torch.equal(
        after["double_blocks.0.img_attn.qkv.bias"], before["double_blocks.0.img_attn.qkv.bias"]
    )
    assert out.stat().st_size == base.stat().st_size


def test_the_sum_is_rounded_once(tmp_path) -> None:
    base = native_flux(tmp_path / "base.safetensors", torch.bfloat16)
    out = tmp_path / "baked.safetensors"
    merge_into_base(base, open_base(base), {"transformer": {"x_embedder": factors()}}, out)
    start = load_file(base)["img_in.weight"].double()
    assert torch.equal(load_file(out)["img_in.weight"], (start + factors().dense()).bfloat16())


def test_a_folder_keeps_all_else(tmp_path) -> None:
    base = tmp_path / "base"
    (base / "unet").mkdir(parents=True)
    (base / "model_index.json").write_text("{}")
    torch.manual_seed(0)
    name = "down_blocks.0.resnets.0.conv1.weight"
    save_file({name: torch.randn(8, 4, 3, 3), "other": torch.ones(3)}, base / "unet" / "model.safetensors")
    conv = factors(8, 4, kernel=3)
    merge_into_base(
        base, open_base(base, "sdxl"), {"unet": {"down_blocks.0.resnets.0.conv1": conv}}, tmp_path / "out"
    )
    before, after = (load_file(tmp_path / f / "unet" / "model.safetensors") for f in ("base", "out"))
    assert torch.allclose((after[name] - before[name]).flatten(1).double(), conv.dense(), atol=1e-5)
    assert torch.equal(after["other"], before["other"])
    assert (tmp_path / "out" / "model_index.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        (
            {"proj_out": factors()},
            r"1 of the LoRA's 1 modules are not in base.safetensors: transformer.proj_out",
        ),
        ({"x_embedder": factors(6)}, r"x_embedder: The change is 6 x 8 and the weight \(8, 8\)"),
        ({"x_embedder": lokr(6)}, r"x_embedder: The change is 6 x 8"),
    ],
)
def test_a_lora_of_another_base_is_refused_and_leaves_nothing(tmp_path, adapter, reason: str) -> None:
    base = native_flux(tmp_path / "base.safetensors")
    with pytest.raises(BadLora, match=reason):
        merge_into_base(base, open_base(base), {"transformer": adapter}, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]


def test_what_cannot_hold_the_sum_is_refused(tmp_path) -> None:
    base = native_flux(tmp_path / "base.safetensors", torch.float16)
    big = {"transformer": {"x_embedder": factors()}}
    with raises(BadLora):
        merge_into_base(base, open_base(base), big, tmp_path / "out.safetensors", 1e9)
    quantised = tmp_path / "q.safetensors"
    save_file({"img_in.weight": torch.ones(8, 8).to(torch.float8_e4m3fn)}, quantised)
    with raises(BadBase):
        merge_into_base(quantised, open_base(quantised, "flux"), big, tmp_path / "out.safetensors")
    with raises(BadBase):
        merge_into_base(base, open_base(base), big, base)


def twin_lora(tmp_path, monkeypatch, layer="x_embedder", scale=1.0) -> dict:
    """A LoRA of one layer of the tiny base, as the file of the twin ``glyph-turbo``: layer, down, up."""
    monkeypatch.setattr(into_base, "EMBEDDED", tmp_path)
    draw = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 16, generator=draw), scale * torch.randn(32, 2, generator=draw)
    names = {"lora_A": down, "lora_B": up}
    flat = {f"transformer.{layer}.{name}.weight": tensor for name, tensor in names.items()}
    save_file(flat, tmp_path / "turbo.safetensors")
    return {"down": down, "up": up}


TWIN = RegisteredBase(
    name="glyph-turbo",
    licence="MIT",
    train_on="glyph",
    lora="turbo.safetensors",
    changes={"limner": {"guidance": 1.0}, "scheduler": {"shift": 2.5}},
)


def test_a_twin_is_its_raw_base_with_a_lora_in_the_denoiser_made_once(tiny_base, tmp_path, monkeypatch):
    raw, lines = locate(str(tiny_base), folders={}), []
    pair = twin_lora(tmp_path, monkeypatch)
    twin = into_base.opened(TWIN, raw, lines.append)
    assert twin.name == "glyph-turbo" and len(lines) == 1
    before, after = (load_file(source.weights("transformer")[0]) for source in (raw, twin))
    name = "x_embedder.weight"
    change = (pair["up"].double() @ pair["down"].double()).to(before[name].dtype)
    assert torch.allclose(after[name], before[name] + change, atol=1e-6)
    assert all(torch.equal(after[other], before[other]) for other in before if other != name)
    for part in set(raw.models) - {"transformer"}:
        assert twin.fingerprint(part, "") == raw.fingerprint(part, "")
    assert twin.facts["guidance"] == 1.0
    assert twin.config("scheduler") == {**raw.config("scheduler"), "shift": 2.5}
    assert into_base.opened(TWIN, raw, lines.append).root == twin.root and len(lines) == 1
    twin_lora(tmp_path, monkeypatch, scale=2.0)
    assert into_base.opened(TWIN, raw, lines.append).root != twin.root


def test_a_lora_of_another_base_makes_no_twin(tiny_base, tmp_path, monkeypatch):
    twin_lora(tmp_path, monkeypatch, layer="transformer_blocks.7.attn.to_q")
    with raises(BadLora):
        into_base.opened(TWIN, locate(str(tiny_base), folders={}), lambda line: None)


def test_every_twin_that_is_a_lora_names_a_file_and_a_base_with_weights():
    twins = [base for base in registered_bases().values() if base.lora]
    assert {base.name for base in twins} == {"glyph-turbo"}
    for base in twins:
        raw = registered_bases()[base.train_on]
        assert base.steps and not (base.hub_id or raw.lora) and set(base.changes) <= {"limner", "scheduler"}
