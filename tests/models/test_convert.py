"""A base in one file is, bit for bit, the base that it was made of."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from limner.errors import BadBase
from limner.lora.factors import Factors
from limner.lora.into_base import merge_into_base
from limner.lora.weights import open_base
from limner.models import convert
from limner.models import convert as folders
from limner.models.convert import by_key_map, opened
from limner.models.flux.facts import FACTS
from limner.models.loading import load
from limner.models.registry import family_of
from limner.models.source import Source, locate
from messages import raises
from originals import flux as to_authors
from originals import part_of, save_single
from tiny import save_flux, save_sd15, save_sdxl

SAVES: dict[str, Callable[[Path], Path]] = {"flux": save_flux, "sdxl": save_sdxl, "sd15": save_sd15}


@pytest.fixture(scope="module", params=SAVES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVES[request.param](tmp_path_factory.mktemp("bases") / request.param)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp("bases") / "sdxl")


def models(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/*.safetensors"))


def same(one: Path, other: Path, part: str) -> bool:
    mine, theirs = part_of(one, part), part_of(other, part)
    bare = {name.removeprefix("text_model."): tensor for name, tensor in theirs.items()}
    found = {name.removeprefix("text_model."): tensor for name, tensor in mine.items()}
    return found.keys() == bare.keys() and all(torch.equal(found[name], bare[name]) for name in bare)


def test_every_part_comes_back_to_the_bit(folder: Path, tmp_path: Path):
    told: list[str] = []
    path = save_single(folder, tmp_path / "model.safetensors")
    source = opened(path, str(folder), folders={}, tell=told.append)
    assert source.name == "model.safetensors" and source.facts["resolution"] == 32
    assert [part for part in models(folder) if not same(source.root, folder, part)] == []
    family = family_of(source.index["_class_name"])
    for part in family.parts:
        load(family, source, part, dtype=torch.float32, device=torch.device("cpu"))
    assert len(told) == 1 and "Turning model.safetensors into a folder" in told[0]
    again = opened(path, str(folder), folders={}, tell=told.append)
    assert again == source and len(told) == 1, "made once"
    assert not list(source.root.parent.glob(".*.part"))


def test_what_the_file_lacks_is_lent(folder: Path, tmp_path: Path):
    denoiser = "transformer" if (folder / "transformer").exists() else "unet"
    path = save_single(folder, tmp_path / "alone.safetensors", only=(denoiser,))
    source = opened(path, str(folder), folders={})
    assert [part for part in models(folder) if not same(source.root, folder, part)] == []
    assert (source.root / "tokenizer").is_dir()


def test_another_file_or_another_lender_is_another_folder(sdxl: Path, tmp_path: Path):
    path = save_single(sdxl, tmp_path / "one.safetensors", only=("unet",))
    first = opened(path, str(sdxl), folders={}).root
    other = save_sdxl(tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.02}))
    second = opened(path, str(other), folders={}).root
    weights = load_file(path)
    weights["model.diffusion_model.out.2.bias"] += 1
    save_file(weights, path)
    third = opened(path, str(sdxl), folders={}).root
    assert len({first, second, third}) == 3


def test_marks_of_v_prediction_reach_the_sampler(sdxl: Path, tmp_path: Path):
    path = save_single(sdxl, tmp_path / "v.safetensors", v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    said = opened(path, str(sdxl), folders={}).config("scheduler")
    assert said["prediction_type"] == "v_prediction" and said["rescale_betas_zero_snr"] is True
    assert said["timestep_spacing"] == "trailing" and said["beta_end"] == 0.012


def test_fp8_becomes_bf16_and_other_tensors_keep_their_dtype(sdxl: Path, tmp_path: Path):
    path = save_single(sdxl, tmp_path / "fp8.safetensors", only=("unet",))
    weights = load_file(path)
    name = "model.diffusion_model.out.2.weight"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    save_file(weights, path)
    made = part_of(opened(path, str(sdxl), folders={}).root, "unet")
    assert torch.equal(made["conv_out.weight"], weights[name].to(torch.bfloat16))
    assert made["conv_out.bias"].dtype == torch.float32


def test_weights_are_written_in_shards(sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "SHARD", 20_000)
    path = save_single(sdxl, tmp_path / "model.safetensors")
    source = opened(path, str(sdxl), folders={})
    files = source.weights("unet")
    assert len(files) > 1 and all(file.stat().st_size < 40_000 for file in files)
    family = family_of(source.index["_class_name"])
    seen = load(family, source, "unet", dtype=torch.float32, device=torch.device("cpu")).state_dict()
    assert all(torch.equal(seen[name], tensor) for name, tensor in part_of(sdxl, "unet").items())


def test_a_variant_of_another_shape_is_told(sdxl: Path, tmp_path: Path):
    path = save_single(sdxl, tmp_path / "inpainting.safetensors")
    weights = load_file(path)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**weights, name: torch.zeros(8, 9, 3, 3)}, path)
    with raises(BadBase):
        opened(path, str(sdxl), folders={})
    del weights[name]
    save_file(weights, path)
    with raises(BadBase):
        opened(path, str(sdxl), folders={})
    save_single(sdxl, path, **{"model.diffusion_model.input_blocks.9.0.in_layers.0.weight": torch.zeros(8)})
    with raises(BadBase):
        opened(path, str(sdxl), folders={})


def test_numbers_that_are_none_are_told(sdxl: Path, tmp_path: Path):
    path = save_single(sdxl, tmp_path / "nan.safetensors", only=("unet",))
    weights = load_file(path)
    weights["model.diffusion_model.out.2.bias"][0] = float("nan")
    save_file(weights, path)
    with raises(BadBase):
        opened(path, str(sdxl), folders={})


def test_lenders_of_other_families_and_lenders_that_are_not_there(
    sdxl: Path, tiny_base: Path, tmp_path: Path
):
    path = save_single(sdxl, tmp_path / "model.safetensors")
    with raises(BadBase):
        opened(path, str(tiny_base), folders={})
    with raises(BadBase):
        opened(path, "", folders={})


def test_flux_at_true_width_as_diffusers_own_converter_has_it():
    """One column is enough: rows are what is cut, swapped and put together."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    draw = torch.Generator().manual_seed(0)
    width = 3072
    heights = {
        **{f"double_blocks.0.{side}_attn.qkv": 3 * width for side in ("img", "txt")},
        **{f"double_blocks.0.{side}_attn.proj": width for side in ("img", "txt")},
        **{
            f"double_blocks.0.{side}_mlp.{n}": width * (4 if n == 0 else 1)
            for side in ("img", "txt")
            for n in (0, 2)
        },
        **{f"double_blocks.0.{side}_mod.lin": 6 * width for side in ("img", "txt")},
        "single_blocks.0.linear1": 7 * width,
        "single_blocks.0.linear2": width,
        "single_blocks.0.modulation.lin": 3 * width,
        **{
            f"{part}_in.{layer}_layer": width
            for part in ("time", "vector", "guidance")
            for layer in ("in", "out")
        },
        **dict.fromkeys(("img_in", "txt_in"), width),
        "final_layer.linear": 64,
        "final_layer.adaLN_modulation.1": 2 * width,
    }
    native = {f"{name}.weight": torch.randn(rows, 1, generator=draw) for name, rows in heights.items()}
    native |= {f"{name}.bias": torch.randn(rows, generator=draw) for name, rows in heights.items()}
    norms = ("double_blocks.0.img_attn", "double_blocks.0.txt_attn", "single_blocks.0")
    native |= {
        f"{n}.norm.{w}_norm.scale": torch.randn(128, generator=draw) for n in norms for w in ("query", "key")
    }
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(native))
    mine = by_key_map(FACTS.single_file.parts["transformer"], native, set(theirs))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    back = to_authors(theirs)
    assert back.keys() == native.keys() and all(torch.equal(back[name], native[name]) for name in native)


def test_guidance_is_what_the_file_has(tmp_path: Path):
    dev, schnell = save_flux(tmp_path / "dev", guided=True), save_flux(tmp_path / "schnell")
    path = save_single(dev, tmp_path / "dev.safetensors", only=("transformer",))
    source: Source = opened(path, str(schnell), folders={})
    assert source.config("transformer")["guidance_embeds"] is True and same(source.root, dev, "transformer")


def test_a_file_with_a_lora_baked_in_is_a_base(tiny_base: Path, tmp_path: Path):
    path = save_single(tiny_base, tmp_path / "model.safetensors")
    before = part_of(tiny_base, "transformer")
    names = ("transformer_blocks.0.attn.to_k", "single_transformer_blocks.1.proj_mlp", "norm_out.linear")
    adapter = {
        name: Factors(torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2))
        for name in names
        for weight in (before[f"{name}.weight"],)
    }
    merge_into_base(path, open_base(path), {"transformer": adapter}, tmp_path / "baked.safetensors")
    after = part_of(opened(tmp_path / "baked.safetensors", str(tiny_base), folders={}).root, "transformer")
    for name, weight in before.items():
        change = adapter.get(name.removesuffix(".weight"))
        wanted = weight if change is None else (weight.double() + change.dense()).float()
        assert torch.equal(after[name], wanted), name


TENSORS = {name: torch.randn(10, 10) for name in "abc"}


def test_weights_are_written_in_the_precision_that_is_asked_for(tmp_path):
    (path,) = convert.write(tmp_path / "unet", TENSORS, dtypes={"a": torch.bfloat16}, facts={"steps": "3"})
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("a"), TENSORS["a"].bfloat16())
        assert torch.equal(file.get_tensor("b"), TENSORS["b"])
        assert file.metadata() == {"format": "pt", "steps": "3"}
    assert path.name == "diffusion_pytorch_model.safetensors"


def test_large_weights_lie_in_shards_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "SHARD", 900)
    paths = convert.write(tmp_path / "transformer", TENSORS)
    index = json.loads((tmp_path / "transformer/diffusion_pytorch_model.safetensors.index.json").read_text())
    assert [path.name for path in paths] == sorted(set(index["weight_map"].values())) and len(paths) == 2
    assert index["metadata"]["total_size"] == 1200


@pytest.mark.parametrize("linked", [True, False])
def test_a_part_is_lent_as_it_is(linked, tiny_base, tmp_path):
    source = locate(str(tiny_base), folders={})
    convert.lend(source, "vae", tmp_path / "vae", allow_links=linked)
    convert.lend(source, "tokenizer", tmp_path / "tokenizer", allow_links=linked)
    for path in (*(tmp_path / "vae").iterdir(), *(tmp_path / "tokenizer").iterdir()):
        assert path.read_bytes() == (tiny_base / path.parent.name / path.name).read_bytes()
    assert (tmp_path / "vae/config.json").samefile(tiny_base / "vae/config.json") == linked
