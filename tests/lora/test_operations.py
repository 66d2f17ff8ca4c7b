from pathlib import Path

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from peft.tuners.lokr.layer import factorization
from safetensors.torch import load_file, save_file

from limner.errors import BadLora, BadUsage
from limner.lora import file
from limner.lora import operations as module
from limner.lora.adapters import Dora, to_lora
from limner.lora.extraction import ExtractLoss
from limner.lora.inspect import inspect
from limner.lora.keys import encode
from limner.lora.nearest import dense
from limner.lora.operations import ConvertOptions, convert, extract, merge, merge_into_base, resize
from limner.lora.resizing import RankRule
from limner.lora.tools import KOHYA
from limner.models.source import Source
from loras import denoiser, dora, factors, loha, lokr, whole, worst
from messages import raises
from small import Told

ABOUT = {"modelspec.architecture": "Qwen-Image/lora", "modelspec.title": "cat", "ss_network_dim": "9"}


def lora(path, components=None, about=None):
    file.write(path, components or {"transformer": denoiser("qwen-image")}, ABOUT if about is None else about)
    return path


@pytest.mark.parametrize("to", ["diffusers", "comfyui", "kohya", "diffsynth"])
def test_there_and_back(tmp_path, to: str) -> None:
    source = lora(tmp_path / "a.safetensors")
    done = convert(source, to, tmp_path / f"{to}.safetensors", ConvertOptions(), Told())
    assert (done.family, done.modules, done.error) == ("qwen-image", 34, 0)
    back = convert(done.path, "diffusers", tmp_path / "back.safetensors", ConvertOptions(), Told())
    again, first = load_file(back.path), load_file(source)
    assert all(torch.equal(again[name], first[name]) for name in first)
    assert again.keys() == first.keys()
    held = file.read(back.path)
    assert held.metadata["modelspec.title"] == "cat"
    assert held.metadata["ss_network_dim"] == "Dynamic"


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2e-3), ("bfloat16", 1.6e-2)])
def test_smaller_dtypes_lose_what_they_must(tmp_path, dtype: str, bound: float) -> None:
    source = lora(tmp_path / "a.safetensors", whole("flux"), {"modelspec.architecture": "flux-1-dev/lora"})
    done = convert(source, "kohya", tmp_path / "k.safetensors", ConvertOptions(dtype=dtype), Told())
    assert 0 < done.error < bound
    held = file.read(done.path)
    assert held.dtype == getattr(torch, dtype)
    assert worst(held.components, whole("flux")) < bound
    assert load_file(done.path)["lora_unet_img_in.alpha"].dtype == torch.float32


def test_what_a_tool_lacks_is_refused_or_left_out_by_name(tmp_path) -> None:
    source = lora(tmp_path / "a.safetensors", whole("flux"), {"modelspec.architecture": "flux-1-dev/lora"})
    with raises(BadLora):
        convert(source, "diffsynth", tmp_path / "d.safetensors", ConvertOptions(), Told())
    told = Told()
    done = convert(source, "diffsynth", tmp_path / "d.safetensors", ConvertOptions(leave_out=True), told)
    assert any("text_encoder_2" in line for line in done.left_out)
    assert "left out transformer.proj_out: diffsynth has no name for it" in told.text
    assert done.modules + len(done.left_out) == sum(map(len, whole("flux").values()))


def test_other_kinds_are_flattened_when_asked(tmp_path) -> None:
    components = {"transformer": {"img_in": loha(), "txt_in": lokr(), "proj_out": factors()}}
    source = tmp_path / "a.safetensors"
    file.write(source, components, ABOUT, tool=KOHYA, family="qwen-image")
    with raises(BadLora):
        convert(source, "diffusers", tmp_path / "d.safetensors", ConvertOptions(), Told())
    done = convert(source, "diffusers", tmp_path / "d.safetensors", ConvertOptions(flatten=8), Told())
    assert worst(file.read(done.path).components, components) < 1e-5
    assert {loss.module for loss in done.losses} == {"img_in", "txt_in"}


def test_a_dora_is_flattened_over_its_base(tmp_path) -> None:
    source = lora(tmp_path / "a.safetensors", {"transformer": {"img_in": dora()}})
    base = tmp_path / "base.safetensors"
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    save_file({"img_in.weight": weight, "txt_in.weight": weight.clone()}, base)
    with raises(BadLora):
        convert(source, "comfyui", tmp_path / "c.safetensors", ConvertOptions(flatten=8), Told())
    wish = ConvertOptions(flatten=8, base=base, family="qwen-image")
    done = convert(source, "comfyui", tmp_path / "c.safetensors", wish, Told())
    made = file.read(done.path).components["transformer"]["img_in"]
    assert torch.allclose(made.dense(), dora().over(weight) - weight, atol=1e-5)  # pyright: ignore


@pytest.mark.parametrize("axis", ["in", "out"])
def test_a_dora_of_a_lokr_is_read_flattened_over_its_base_and_written_where_it_is_computed(tmp_path, axis):
    change, weight = Dora(lokr(), torch.rand(8) + 0.5, axis), torch.randn(8, 8)
    ending = "dora_scale" if axis == "in" else "lora_magnitude_vector"
    tensors = encode(lokr(), peft=False) | {ending: change.magnitude.reshape(1, -1)}
    source = tmp_path / "a.safetensors"
    save_file({f"diffusion_model.img_in.{name}": tensor for name, tensor in tensors.items()}, source)
    assert inspect(source, "qwen-image").components[0].kinds == ("DoRA of LoKr",)
    base = tmp_path / "base.safetensors"
    save_file({"img_in.weight": weight, "txt_in.weight": weight.clone()}, base)
    options = ConvertOptions(flatten=8, base=base, family="qwen-image")
    plain = file.read(convert(source, "diffusers", tmp_path / "d.safetensors", options, Told()).path)
    wanted = change.over(weight) - weight
    assert torch.allclose(plain.components["transformer"]["img_in"].dense(), wanted, atol=1e-5)  # pyright: ignore
    for tool in ("diffusers", "comfyui"):
        out, same = tmp_path / f"{tool}.safetensors", ConvertOptions(family="qwen-image")
        if tool == "comfyui" and axis == "in":
            written = file.read(convert(source, tool, out, same, Told()).path, "qwen-image")
            again = written.components["transformer"]["img_in"]
            assert torch.allclose(again.over(weight), change.over(weight), atol=1e-6)  # pyright: ignore
        else:
            with pytest.raises(BadLora, match="reads no DoRA of LoKr|norms along 'out'"):
                convert(source, tool, out, same, Told())


def test_merge_and_resize(tmp_path) -> None:
    one = lora(tmp_path / "a.safetensors")
    two = convert(one, "comfyui", tmp_path / "b.safetensors", ConvertOptions(), Told()).path
    done = merge([one, two], [1.0, 0.5], tmp_path / "m.safetensors", ConvertOptions(), None)
    merged = file.read(done.path)
    assert merged.metadata["modelspec.merged_from"] == "a.safetensors, b.safetensors"
    change = merged.components["transformer"]["img_in"]
    assert torch.allclose(change.dense(), 1.5 * denoiser("qwen-image")["img_in"].dense(), atol=1e-5)  # pyright: ignore
    small = resize(done.path, RankRule("rank", 3), tmp_path / "s.safetensors", ConvertOptions(), Told())
    assert max(loss.relative for loss in small.losses) < 1e-6  # the sum of a thing and its half has its rank
    assert (
        merge([one, two], [], tmp_path / "n.safetensors", ConvertOptions(), RankRule("rank", 1))
        .losses[0]
        .after
        == 1
    )


def test_extract_and_bake(tmp_path, monkeypatch) -> None:
    base = tmp_path / "base.safetensors"
    torch.manual_seed(0)
    save_file({f"{name}.weight": torch.randn(8, 8) for name in ("img_in", "txt_in", "proj_out")}, base)
    source = lora(
        tmp_path / "a.safetensors", {"transformer": {"img_in": factors(), "txt_in": factors(seed=1)}}
    )
    wish = ConvertOptions(family="qwen-image")
    done = merge_into_base(source, base, tmp_path / "tuned.safetensors", 1.0, wish)
    assert done["weights"] == 2
    found = extract(base, tmp_path / "tuned.safetensors", 2, tmp_path / "x.safetensors", wish, Told())
    assert found.modules == 2
    wished = {"transformer": {"img_in": factors(), "txt_in": factors(seed=1)}}
    assert worst(file.read(found.path).components, wished) < 1e-4  # pyright: ignore
    assert "ss_sd_model_name" not in file.read(found.path).metadata, "paths stay here"
    monkeypatch.setattr(module, "locate_base", lambda name, tell: Source(base, name))
    found = extract(Path("own/er"), tmp_path / "tuned.safetensors", 2, found.path, wish, Told())
    assert file.read(found.path).metadata["ss_sd_model_name"] == "own/er"


@pytest.mark.parametrize(
    ("kind", "tool"), [("dora", "diffusers"), ("dora", "comfyui"), ("lokr", "comfyui"), ("loha", "comfyui")]
)
def test_a_fine_tune_is_extracted_as_any_kind(tmp_path, kind, tool: str) -> None:
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    weights = {f"{name}.weight": torch.randn(8, 8) for name in ("x_embedder", "context_embedder")}
    changes = [to_lora(lokr()).dense().float(), factors().dense().float()]
    changes = dict(zip(weights, changes, strict=True))
    save_file(weights, base)
    save_file({name: weight + changes[name] for name, weight in weights.items()}, tuned)
    wish = ConvertOptions(family="flux", kind=kind, to=tool, factor=2 if kind == "lokr" else None)
    done = extract(base, tuned, 8, tmp_path / "x.safetensors", wish, Told())
    content = file.read(done.path, "flux")
    assert content.kinds == ({"dora": "DoRA", "lokr": "LoKr", "loha": "LoHa"}[kind],)
    assert content.metadata["ss_network_module"] == "lycoris.kohya"
    assert done.energy == pytest.approx(1, abs=1e-9 if kind == "dora" else 1)
    for loss in done.losses:
        assert isinstance(loss, ExtractLoss)
        weight, change = weights[f"{loss.module}.weight"], changes[f"{loss.module}.weight"]
        read = dense(content.components["transformer"][loss.module], weight)
        assert ((read - change).norm() / change.norm()).item() == pytest.approx(loss.relative, abs=1e-4)
    if kind == "lokr":
        assert min(loss.relative for loss in done.losses) < 1e-5, "one of them is one"


def test_a_file_becomes_another_kind_as_it_is_converted_resized_or_merged(tmp_path) -> None:
    modules = {"img_in": factors(), "txt_in": factors(seed=1)}
    one, base = lora(tmp_path / "a.safetensors", {"transformer": modules}), tmp_path / "base.safetensors"
    save_file({f"{name}.weight": torch.randn(8, 8) for name in modules}, base)
    decomposed = convert(
        one, "diffusers", tmp_path / "d.safetensors", ConvertOptions(kind="dora", base=base), Told()
    )
    assert decomposed.energy == pytest.approx(1)
    smaller = resize(
        decomposed.path, RankRule("rank", 1), tmp_path / "r.safetensors", ConvertOptions(), Told()
    )
    read = file.read(smaller.path)
    assert (read.kinds, {change.rank for change in read.components["transformer"].values()}) == (
        ("DoRA",),
        {1},
    )
    rule, wish = RankRule("rank", 4), ConvertOptions(kind="lokr", factor=4, to="comfyui")
    for done in (
        resize(one, rule, tmp_path / "k.safetensors", wish, Told()),
        merge([one, one], [1, 2], tmp_path / "m.safetensors", wish, rule),
    ):
        assert file.read(done.path).kinds == ("LoKr",)
        assert done.energy is not None
        assert 0.2 < done.energy < 1
        assert len(done.losses) == 4, "of the rank, and of the kind"


def test_bad_wishes(tmp_path) -> None:
    source = lora(tmp_path / "a.safetensors")
    for wish in (
        ConvertOptions(kind="lokr", flatten=4),
        ConvertOptions(factor=4),
        ConvertOptions(rank=4),
        ConvertOptions(kind="dora"),
    ):
        with raises(BadUsage):
            convert(source, "comfyui", tmp_path / "b.safetensors", wish, Told())
    with raises(BadUsage):
        convert(source, "comfyui", source, ConvertOptions(), Told())
    with raises(BadUsage):
        convert(source, "comfyui", tmp_path / "b.safetensors", ConvertOptions(dtype="int4"), Told())
    with raises(BadUsage):
        merge([source], [], tmp_path / "b.safetensors", ConvertOptions(), None)
    with raises(BadUsage):
        merge([source, source], [1.0], tmp_path / "b.safetensors", ConvertOptions(), None)
    with raises(BadUsage):
        extract(source, source, 0, tmp_path / "b.safetensors", ConvertOptions(), Told())
    with raises(BadUsage):
        convert(source, "comfyui", tmp_path / "b.safetensors", ConvertOptions(flatten=-1), Told())
    other = lora(tmp_path / "o.safetensors", whole("z-image"), {})
    with raises(BadLora):
        merge([source, other], [], tmp_path / "b.safetensors", ConvertOptions(), None)


@pytest.mark.parametrize("factor", [2, 4, 8, -1, 3])
def test_a_fused_lokr_of_flux2_goes_into_diffusers_as_it_is(tmp_path: Path, factor: int) -> None:
    """diffusers fuses q, k and v itself for it; apart, they would have factors that peft never makes."""
    sizes = {"double_blocks.0.img_attn.qkv": (96, 32), "double_blocks.0.txt_attn.qkv": (96, 32)}
    sizes |= {"double_blocks.0.img_attn.proj": (32, 32), "single_blocks.0.linear2": (32, 128)}
    draw, flat = torch.Generator().manual_seed(0), {}
    for name, (out, width) in sizes.items():
        (out_1, out_2), (in_1, in_2) = factorization(out, factor), factorization(width, factor)
        flat[f"diffusion_model.{name}.lokr_w1"] = torch.randn(out_1, in_1, generator=draw)
        flat[f"diffusion_model.{name}.lokr_w2"] = torch.randn(out_2, in_2, generator=draw)
    source, out = tmp_path / "lokr.safetensors", tmp_path / "out.safetensors"
    save_file(flat, source)
    convert(source, "diffusers", out, ConvertOptions(family="flux2"), Told())
    model = Flux2Transformer2DModel(
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=8,
        axes_dims_rope=(4, 4, 4, 4),
    )
    model.load_lora_adapter(load_file(out), prefix="transformer")
    loaded = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lokr_w1")}
    block = "transformer_blocks.0.attn"
    names = {
        f"{block}.to_qkv": "double_blocks.0.img_attn.qkv",
        f"{block}.to_added_qkv": "double_blocks.0.txt_attn.qkv",
        f"{block}.to_out.0": "double_blocks.0.img_attn.proj",
        "single_transformer_blocks.0.attn.to_out": "single_blocks.0.linear2",
    }
    assert loaded.keys() == names.keys()
    for name, native in names.items():
        w1, w2 = (flat[f"diffusion_model.{native}.lokr_w{n}"] for n in (1, 2))
        assert torch.allclose(loaded[name].get_delta_weight("default_0"), torch.kron(w1, w2), atol=1e-6)
    convert(out, "comfyui", source, ConvertOptions(), Told())
    again = load_file(source)
    assert again.keys() == flat.keys()
    assert all(torch.equal(again[key], flat[key]) for key in flat)


def test_a_lokr_that_diffusers_would_factor_otherwise_is_refused(tmp_path: Path) -> None:
    flat = {
        f"transformer.layers.{n}.attention.to_q.lokr_{side}": torch.randn(*shape)
        for n, sides in enumerate([((2, 4), (16, 8)), ((4, 2), (8, 16)), ((16, 16), (2, 2))])
        for side, shape in zip(("w1", "w2"), sides, strict=True)
    }
    source = tmp_path / "lokr.safetensors"
    save_file(flat, source)
    with pytest.raises(BadLora, match="no decompose_factor that all 3 LoKr modules share. Use --flatten"):
        convert(source, "diffusers", tmp_path / "o.safetensors", ConvertOptions(family="z-image"), Told())


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_an_adapter_of_a_convolution_keeps_its_kernel(tmp_path: Path, kind: str) -> None:
    """The matrices do not show a kernel: laid flat, stock diffusers would not take them."""
    stem, draw = "lora_unet_input_blocks_1_0_in_layers_2", torch.Generator().manual_seed(0)
    shapes = {
        "loha": {"hada_w1_a": (8, 2), "hada_w1_b": (2, 72), "hada_w2_a": (8, 2), "hada_w2_b": (2, 72)},
        "lokr": {"lokr_w1": (2, 2), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 36)},
    }[kind]
    flat = {f"{stem}.{name}": torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    a, b, *rest = flat.values()
    change = (a @ b) * (rest[0] @ rest[1]) if kind == "loha" else torch.kron(a, b @ rest[0])
    source = tmp_path / "x.safetensors"
    save_file(flat, source)
    options = ConvertOptions(family="sdxl", flatten=64)
    for verb in ("flatten", "resize", "merge"):
        out = tmp_path / f"{verb}.safetensors"
        match verb:
            case "flatten":
                convert(source, "diffusers", out, options, Told())
            case "resize":
                resize(source, RankRule("rank", 64), out, options, Told())
            case _:
                merge([source, source], [0.5, 0.5], out, options, None)
        tensors = {
            ending: tensor for key, tensor in load_file(out).items() for ending in key.split(".")[-2:-1]
        }
        assert tensors["lora_A"].shape[1:] == (8, 3, 3)
        product = tensors["lora_B"].flatten(1) @ tensors["lora_A"].flatten(1)
        assert torch.allclose(product, change, atol=1e-4), verb


def test_every_verb_writes_for_the_tool_that_is_asked_for(tmp_path: Path) -> None:
    source = lora(tmp_path / "x.safetensors")
    options = ConvertOptions(to="comfyui")
    small = resize(source, RankRule("rank", 1), tmp_path / "r.safetensors", options, Told())
    both = merge([source, source], [], tmp_path / "m.safetensors", options, None)
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    weights = {f"{name}.weight": torch.zeros(8, 8) for name in ("double_blocks.0.img_attn.proj", "img_in")}
    save_file(weights, base)
    save_file(weights | {"img_in.weight": torch.ones(8, 8)}, tuned)
    lone = extract(base, tuned, 1, tmp_path / "e.safetensors", ConvertOptions(to="kohya"), Told())
    assert (small.tool, both.tool, lone.tool) == ("comfyui", "comfyui", "kohya")
    assert all(key.startswith("diffusion_model.") for key in load_file(small.path))
    assert all(key.startswith("diffusion_model.") for key in load_file(both.path))
    assert all(key.startswith("lora_unet_img_in.") for key in load_file(lone.path))


def test_what_is_private_is_dropped_unless_it_is_asked_for(tmp_path: Path) -> None:
    private = {
        "ss_tag_frequency": '{"5_anna": {"anna smith": 5}}',
        "ss_dataset_dirs": '{"5_anna": {"n_repeats": 5}}',
        "ss_training_comment": "for anna",
        "ss_session_id": "123",
    }
    public = {
        "modelspec.title": "cat",
        "ss_steps": "100",
        "ss_learning_rate": "1e-4",
        "modelspec.author": "me",
    }
    paths = {"ss_sd_model_name": r"C:\Users\anna\models\base.safetensors"}
    source = lora(tmp_path / "x.safetensors", about=private | public | paths)
    for name, options in (("a", ConvertOptions()), ("b", ConvertOptions(keep_metadata=True))):
        out = convert(source, "comfyui", tmp_path / f"{name}.safetensors", options, Told()).path
        entries = file.read(out, "qwen-image").metadata
        assert public.items() <= entries.items()
        assert (private.keys() & entries.keys() == private.keys()) == (name == "b")
        assert entries["ss_sd_model_name"] == (
            "base.safetensors" if name == "a" else paths["ss_sd_model_name"]
        )
