import pytest
import torch

from limner.errors import BadLora
from limner.lora.detection import candidates, depth, detect, locate_any
from limner.lora.keys import ModuleTensors, group_by_module
from limner.models.registry import lora_keys
from messages import raises


def part(stem: str, rows: int, columns: int, *kernel: int) -> ModuleTensors:
    """A LoRA of rank 2 of a module."""
    up = torch.ones(rows, 2, *[1] * len(kernel))
    flat = {f"{stem}.lora_down.weight": torch.ones(2, columns, *kernel), f"{stem}.lora_up.weight": up}
    return group_by_module(flat)[0]


@pytest.mark.parametrize(
    ("stem", "shape", "family"),
    [
        ("diffusion_model.single_blocks.7.linear2", (3072, 15360), "flux"),
        ("diffusion_model.single_blocks.7.linear2", (3072, 12288), "flux2"),
        ("lora_unet_single_blocks_0_linear1", (21504, 3072), "flux"),
        ("lora_unet_single_blocks_0_linear1", (55296, 6144), "flux2"),
        ("lora_transformer_txt_in", (3072, 4096), "flux"),
        ("lora_transformer_txt_in", (4096, 12288), "flux2"),
        ("transformer_blocks.0.attn.to_q", (2432, 2432), "sd3"),
        ("transformer_blocks.0.attn.add_q_proj", (6144, 6144), "flux2"),
        ("transformer_blocks.0.attn.to_gate", (6144, 6144), "krea2"),
        ("transformer_blocks.0.attn.to_k", (1536, 6144), "krea2"),
        ("diffusion_model.blocks.0.attn.wk", (1536, 6144), "krea2"),
        ("lora_unet_blocks_27_mlp_down", (6144, 16384), "krea2"),
        ("diffusion_model.double_blocks.0.img_attn.qkv", (18432, 6144), "flux2"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", (640, 2048), "sdxl"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", (640, 768), "sd15"),
        ("lora_unet_down_blocks_1_attentions_0_proj_in", (640, 640, 1, 1), "sd15"),
        ("lora_unet_down_blocks_1_attentions_0_proj_in", (640, 640), "sdxl"),
        ("lora_unet_input_blocks_4_0_in_layers_2", (640, 320, 3, 3), "sdxl"),
        ("lora_unet_down_blocks_1_resnets_0_conv1", (640, 320, 3, 3), "sd15"),
        ("lora_unet_context_embedder_", (3072, 4096), "flux"),
    ],
)
def test_shapes_and_kohyas_style_tell_families_apart(stem: str, shape: tuple[int, ...], family: str) -> None:
    found = detect([part(stem, *shape)], {})
    assert found is not None
    assert found.family == family


@pytest.mark.parametrize(
    "metadata",
    [
        {"modelspec.architecture": "flux-1-dev/lora"},
        {"ss_base_model_version": "flux1"},
        {"ss_sd_model_name": "black-forest-labs/FLUX.1-dev"},
    ],
)
def test_metadata_tell_where_shapes_do_not(metadata: dict[str, str]) -> None:
    parts = [part("diffusion_model.transformer_blocks.0.attn.to_q", 3072, 3072)]
    with raises(BadLora):
        detect(parts, {})
    found = detect(parts, metadata)
    assert found is not None
    assert found.family == "flux"


@pytest.mark.parametrize(
    ("sides", "shape"),
    [
        ({"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 6)}, (8, 6)),
        ({"lokr_w1": (2, 3), "lokr_w2": (4, 5, 3, 3)}, (8, 135)),
        ({"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 5)}, (8, 15)),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (4, 2)}, None),
        ({"lora_up.weight": (2, 3)}, None),
    ],
)
def test_every_kind_shows_its_shape(sides: dict[str, tuple[int, ...]], shape: tuple[int, int] | None) -> None:
    flat = {f"x.{name}": torch.ones(*size) for name, size in sides.items()}
    assert group_by_module(flat)[0].shape == shape


def test_single_blocks_do_not_count_as_depth() -> None:
    """FLUX.1 has 38 of them behind 19 double blocks, and SD 3.5 has 38 double ones."""
    stems = ["transformer_blocks.18.attn.to_q", "single_transformer_blocks.37.attn.to_q"]
    assert depth([part(stem, 8, 8) for stem in stems]) == 19
    assert depth([part(stem.replace(".", "_"), 8, 8) for stem in stems]) == 19
    assert depth([part("lora_unet_double_blocks_7_img_mod_lin", 8, 8)]) == 8
    assert depth([part("x", 8, 8)]) == 0


def test_a_module_of_no_family_is_named() -> None:
    with raises(BadLora):
        detect([part("diffusion_model.blocks.0.self_attn.q", 8, 8)], {})
    assert detect([part("transformer.strange", 8, 8)], {}) is None, "diffusers' form: the base will say"


def test_where_a_module_is_in_each_family() -> None:
    families = candidates(["transformer.single_transformer_blocks.0.proj_mlp"])
    assert [names.family for names in families] == ["flux"]
    location = locate_any("lora_unet_x_embedder_", lora_keys()["flux"])
    assert location is not None
    assert location.match.modules == ("x_embedder",)
