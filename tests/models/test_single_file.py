"""What a file is, by its header alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from limner.errors import BadBase
from limner.models.presets import preset_name
from limner.models.single_file import look

FLUX = "double_blocks.0.img_attn.qkv.weight"
CHROMA = "distilled_guidance_layer.in_proj.weight"
XL = "model.diffusion_model.label_emb.0.0.weight"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def file(folder: Path, *names: str, **metadata: str) -> Path:
    path = folder / "model.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path, metadata or None)
    return path


@pytest.mark.parametrize(
    ("names", "pipeline", "parts", "donor"),
    [
        ((FLUX,), "FluxPipeline", {"transformer": ""}, "flux-schnell"),
        ((FLUX, "guidance_in.in_layer.weight"), "FluxPipeline", {"transformer": ""}, "flux-dev"),
        (
            (f"model.diffusion_model.{FLUX}", "vae.encoder.conv_in.weight"),
            "FluxPipeline",
            {"transformer": "model.diffusion_model.", "vae": "vae."},
            "flux-schnell",
        ),
        ((FLUX, CHROMA), "ChromaPipeline", {"transformer": ""}, "chroma1-hd"),
        ((XL, FIRST), "StableDiffusionXLPipeline", {"unet": "model.diffusion_model."}, "sdxl"),
        ((FIRST,), "StableDiffusionPipeline", {"unet": "model.diffusion_model."}, "sd15"),
    ],
)
def test_families_and_parts(tmp_path: Path, names, pipeline, parts, donor):
    seen = look(file(tmp_path, *names))
    assert (seen.pipeline, dict(seen.parts), seen.donor) == (pipeline, parts, donor)


def test_presets_are_those_of_the_family(tmp_path: Path):
    assert preset_name(str(file(tmp_path, XL, FIRST))) == "sdxl"
    assert preset_name(str(file(tmp_path, FIRST))) == "sd15"
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    assert preset_name(str(tmp_path / "model.safetensors")) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lora_unet_x.lora_down.weight", "is a LoRA, not a base"),
        ("edm_mean", "Playground"),
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
        ("cond_stage_model.model.ln_final.weight", "is Stable Diffusion 2"),
        ("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", "Stable Diffusion 3, .* folder"),
        ("double_stream_modulation_img.lin.weight", "FLUX.2, .* folder"),
        ("nerf_blocks.0.norm.scale", "is Chroma Radiance"),
        (f"{FLUX}.absmax", "is quantised"),
        ("scaled_fp8", "is quantised"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("transformer_blocks.0.attn.to_q.weight", "Name the folder of the whole base"),
        (
            "encoder.conv_in.weight",
            "has 1 tensors, first encoder.conv_in.weight: it is no checkpoint of .*FLUX.1, .* or SDXL",
        ),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, reason: str):
    with pytest.raises(BadBase, match=rf"model.safetensors .*{reason}"):
        look(file(tmp_path, name))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04archive/data.pkl", "is a pickle"),
        (b"\x80\x02}q\x00", "is a pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "pointer of git-lfs"),
        (b"<!doctype html>", "is a web page"),
        (b"", "is no whole .safetensors file"),
    ],
)
def test_nothing_is_unpickled(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(BadBase, match=reason):
        look(path)


def test_a_torn_file_is_told(tmp_path: Path):
    path = file(tmp_path, FIRST)
    whole = path.read_bytes()
    for torn in (whole[:-2], whole[:20], whole + b"xx"):
        path.write_bytes(torn)
        with pytest.raises(BadBase, match=r"is no whole .safetensors file \(.*\). Download or copy it again"):
            look(path)


def test_v_prediction_is_read_from_marks_and_metadata(tmp_path: Path):
    assert look(file(tmp_path, FIRST)).sampler == {}
    assert look(file(tmp_path, FIRST, "v_pred")).sampler == {"prediction_type": "v_prediction"}
    told = file(tmp_path, FIRST, "ztsnr", **{"modelspec.prediction_type": "v"})
    assert look(told).sampler["rescale_betas_zero_snr"] and "prediction_type" in look(told).sampler
