from typing import Any

import pytest
import torch
from lycoris.modules.locon import LoConModule
from torch import nn

from limner.errors import BadLora
from limner.lora import detection
from limner.lora.adapters import Dora, Lokr, LokrRows, kind, to_lora
from limner.lora.detection import candidates, depth, detect, locate, locate_any, look_alikes
from limner.lora.factors import Factors
from limner.lora.keys import ModuleTensors, group_by_module
from limner.models.key_map import KeyEntry, KeyStyle
from limner.models.registry import lora_keys
from loras import dora, factors, loha, lokr
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
        ("transformer_blocks.31.attn.to_q", (4096, 4096), "qwen-image-21"),
        ("transformer.double_stream_blocks.0.block.attn1.to_q_t", (2560, 2560), "hidream"),
        ("diffusion_model.single_stream_blocks.31.block.ff_i.experts.3.w2", (2560, 6912), "hidream"),
        ("lycoris_single_stream_blocks_0_block_ff_i_shared_experts_w1", (3584, 2560), "hidream"),
        ("diffusion_model.transformer_blocks.0.img_mlp.gate_layer", (12288, 4096), "qwen-image-21"),
        ("lora_unet_transformer_blocks_0_img_mlp_out", (4096, 12288), "qwen-image-21"),
        ("transformer.transformer_blocks.0.attn2.to_k", (2048, 1024), "anima"),
        ("diffusion_model.blocks.27.mlp.layer1", (8192, 2048), "anima"),
        ("lora_unet_blocks_0_adaln_modulation_mlp_2", (6144, 256), "anima"),
        ("transformer.layers.0.attention.to_q", (4608, 4608), "ideogram4"),
        ("diffusion_model.layers.33.attention.qkv", (13824, 4608), "ideogram4"),
        ("lora_unet_layers_0_feed_forward_w2", (4608, 12288), "ideogram4"),
        ("diffusion_model.layers.0.attention.qkv", (11520, 3840), "z-image"),
        ("lora_unet_layers_0_feed_forward_w2", (3840, 10240), "z-image"),
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


SINGLE_MLP = "transformer.single_transformer_blocks.0.proj_mlp"


@pytest.mark.parametrize(
    ("stem", "metadata", "family", "or_else"),
    [
        (SINGLE_MLP, {}, "flux", ["chroma"]),
        (SINGLE_MLP, {"ss_base_model_version": "flux1"}, "flux", []),
        (SINGLE_MLP, {"modelspec.architecture": "chroma/lora"}, "chroma", []),
        (SINGLE_MLP, {"ss_sd_model_name": "Chroma1-HD.safetensors"}, "chroma", []),
        ("diffusion_model.distilled_guidance_layer.layers.0.in_layer", {}, "chroma", []),
        ("diffusion_model.double_blocks.0.img_mod.lin", {}, "flux", []),
    ],
)
def test_chroma_is_told_from_flux_by_what_flux_has_not_and_else_flux_is_assumed(
    stem: str, metadata: dict[str, str], family: str, or_else: list[str]
) -> None:
    parts = [part(stem, 12288, 3072)]
    found = detect(parts, metadata)
    assert found is not None
    assert found.family == family
    assert [other.family for other in look_alikes(found, parts, metadata)] == or_else


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
    assert [names.family for names in families] == ["chroma", "flux"]
    location = locate_any("lora_unet_x_embedder_", lora_keys()["flux"])
    assert location is not None
    assert location.match.modules == ("x_embedder",)


FLUX = lora_keys()["flux"]
FC1, T5_Q = "text_model.encoder.layers.0.mlp.fc1", "encoder.block.0.layer.0.SelfAttention.q"


@pytest.mark.parametrize(
    ("stem", "component", "module"),
    [
        ("transformer.transformer_blocks.3.attn.to_k", "transformer", "transformer_blocks.3.attn.to_k"),
        ("base_model.model.x_embedder", "transformer", "x_embedder"),
        ("lora_unet_double_blocks_3_img_attn_proj", "transformer", "transformer_blocks.3.attn.to_out.0"),
        ("lora_te1_encoder_layers_0_mlp_fc1", "text_encoder", "text_model.encoder.layers.0.mlp.fc1"),
        (
            "lora_te1_text_model_encoder_layers_0_mlp_fc1",
            "text_encoder",
            "text_model.encoder.layers.0.mlp.fc1",
        ),
        (
            "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
            "text_encoder_2",
            "encoder.block.0.layer.0.SelfAttention.q",
        ),
    ],
)
def test_a_module_is_found_in_every_spelling(stem: str, component: str, module: str) -> None:
    location = locate(stem, FLUX)
    assert location is not None
    assert (location.component, location.match.modules[location.match.member or 0]) == (component, module)


def test_only_the_styles_that_are_given_are_tried() -> None:
    styles = (KeyStyle("transformer.", "diffusers"),)
    assert locate("x_embedder", FLUX, styles, {}) is None
    assert locate("transformer.x_embedder", FLUX, styles, {}) is not None
    assert locate("lora_te1_text_model_encoder_layers_0_mlp_fc1", FLUX, styles, {}) is None
    assert locate("text_model.encoder.layers.0.mlp.fc1", FLUX, (), {"no_encoder": styles}) is None


QKV = KeyEntry(("q", "k", "v"), "qkv", (1, 1, 1))
MIXED = KeyEntry(("q", "mlp"), "linear1", (1, 4))


def test_unequal_ranks_come_apart_as_they_went_together() -> None:
    members = [factors(rank=rank, seed=rank) for rank in (1, 2, 3)]
    whole = detection.fuse(QKV, members)
    assert whole.rank == 6
    wanted = torch.cat([m.dense() for m in members])
    assert torch.allclose(to_lora(whole).dense(), wanted, atol=1e-6)
    for mine, again in zip(members, detection.split(QKV, whole), strict=True):
        assert isinstance(again, Factors)
        assert torch.equal(mine.down, again.down)
        assert torch.equal(mine.up, again.up)


def test_a_missing_member_leaves_its_rows_alone() -> None:
    whole = detection.fuse(QKV, [factors(), None, factors(seed=1)])
    assert whole.shape == (24, 8)
    assert not to_lora(whole).dense()[8:16].any()
    parts = detection.split(QKV, whole)
    assert parts[1] is None
    assert parts[0] is not None


def test_one_down_for_all_keeps_the_rank() -> None:
    down = torch.randn(4, 8)
    members = [Factors(down, torch.randn(8, 4)) for _ in range(3)]
    whole = detection.fuse(QKV, members)
    assert whole.rank == 4
    assert [part.rank for part in detection.split(QKV, whole) if part] == [4, 4, 4]


def test_an_untrained_one_keeps_its_modules() -> None:
    parts = detection.split(QKV, Factors(torch.randn(2, 8), torch.zeros(24, 2)))
    assert [part is None for part in parts] == [False] * 3


def test_parts_of_unequal_height() -> None:
    members = [factors(8), factors(32, seed=1)]
    parts = detection.split(MIXED, detection.fuse(MIXED, members))
    assert [part.shape for part in parts if part] == [(8, 8), (32, 8)]


def test_lohas_go_together_exactly() -> None:
    members = [loha(seed=n) for n in range(3)]
    whole = detection.fuse(QKV, members)
    wanted = torch.cat([to_lora(m).dense() for m in members])
    assert torch.allclose(to_lora(whole).dense(), wanted, atol=1e-5)
    parts = detection.split(QKV, whole)
    for mine, again in zip(members, parts, strict=True):
        assert again is not None
        assert torch.allclose(to_lora(mine).dense(), to_lora(again).dense(), atol=1e-5)


def test_a_fused_lokr_comes_apart_by_its_outer_rows() -> None:
    whole = lokr(24, 8)
    wide = type(whole)((torch.randn(6, 2),), (torch.randn(4, 4),))
    parts = detection.split(QKV, wide)
    dense = torch.cat([to_lora(part).dense() for part in parts if part])
    assert torch.allclose(dense, to_lora(wide).dense(), atol=1e-5)
    assert all(isinstance(part, LokrRows) and isinstance(part.unfused(), Lokr) for part in parts)


@pytest.mark.parametrize("rows", [(2, 12), (6, 4), (24, 1), (1, 24), (8, 3)])
def test_a_fused_lokr_is_never_lost(rows: tuple[int, int]) -> None:
    """A Kronecker product knows nothing of q, k and v: its blocks may end anywhere."""
    whole = Lokr((torch.randn(rows[0], 2),), (torch.randn(rows[1], 4),))
    parts = detection.split(QKV, whole)
    dense, probe = to_lora(whole).dense(), torch.randn(8, 3, dtype=torch.float64)
    for n, part in enumerate(parts):
        assert isinstance(part, LokrRows)
        block = dense[8 * n : 8 * n + 8]
        assert part.shape == (8, 8)
        assert torch.allclose(to_lora(part).dense(), block, atol=1e-5)
        assert torch.allclose(part.times(probe), block @ probe, atol=1e-4)
        assert part.norm() == pytest.approx(block.norm().item(), rel=1e-5)
        if part.is_whole_blocks:
            assert torch.allclose(to_lora(part.unfused()).dense(), block, atol=1e-5)
        else:
            with pytest.raises(BadLora, match="cannot be taken apart. Use --flatten"):
                part.unfused()
    assert detection.fuse(QKV, parts) is whole, "written again as it was"


def test_what_cannot_be_one_is_refused() -> None:
    with raises(BadLora):
        detection.fuse(QKV, [dora(), factors(), factors()])
    with raises(BadLora):
        detection.fuse(QKV, [factors(8), factors(6), factors(8)])
    with raises(BadLora):
        detection.split(QKV, dora(24, 8, "in"))
    with raises(BadLora):
        detection.split(QKV, factors(8))


@pytest.mark.parametrize("whole", [loha(24), lokr(24)], ids=kind)
def test_norms_along_the_output_part_with_the_rows_of_any_kind(whole) -> None:
    change, weight = Dora(whole, torch.rand(24) + 0.5, "out"), torch.randn(24, 8)
    parts = detection.split(QKV, change)
    changed = [part.over(rows) for part, rows in zip(parts, weight.chunk(3), strict=True)]  # pyright: ignore
    assert torch.allclose(torch.cat(changed), change.over(weight), atol=1e-6)


@pytest.mark.parametrize("on_output", [True, False])
def test_a_fused_dora_of_lycoris_is_read_part_by_part_where_its_norms_part(on_output) -> None:
    torch.manual_seed(3)
    layer = nn.Linear(8, 24, bias=False)
    theirs: Any = LoConModule("qkv", layer, lora_dim=2, alpha=3, weight_decompose=True, wd_on_out=on_output)
    for value in theirs.parameters():
        value.data = torch.rand_like(value) + 0.1
    flat = {f"qkv.{name}": value.detach() for name, value in theirs.custom_state_dict().items()}
    change, weight = group_by_module(flat)[0].delta(), layer.weight.detach().clone()
    assert isinstance(change, Dora) and change.axis == ("out" if on_output else "in")
    theirs.apply_to()
    wanted = layer(torch.eye(8)).T.double()
    assert torch.allclose(change.over(weight), wanted, atol=1e-5)
    if on_output:
        parts = detection.split(QKV, change)
        blocks = zip(parts, weight.chunk(3), strict=True)
        assert torch.allclose(torch.cat([part.over(rows) for part, rows in blocks]), wanted, atol=1e-5)  # pyright: ignore
        return
    q = Dora(Factors(change.factors.down, change.factors.up[:8]), change.magnitude, "in")  # pyright: ignore
    assert (q.over(weight[:8]) / wanted[:8]).min() > 1.3, "norms of q alone would make it too strong"
    with raises(BadLora):
        detection.split(QKV, change)


OF_LOKR = Dora(lokr(16), torch.rand(16) + 0.5, "out")


@pytest.mark.parametrize(
    "change", [factors(16), loha(16), lokr(16), dora(16), dora(16, axis="in"), OF_LOKR], ids=kind
)
def test_a_swap_turns_the_rows_of_the_changed_weight(change) -> None:
    weight = torch.randn(16, 8)
    turned = torch.cat(weight.chunk(2)[::-1])

    def moved(own, start: torch.Tensor) -> torch.Tensor:
        return own.over(start) if isinstance(own, Dora) else start + to_lora(own).dense()

    wanted = torch.cat(moved(change, weight).chunk(2)[::-1])
    assert torch.allclose(moved(detection.swap_halves(change), turned).float(), wanted.float(), atol=1e-5)


def test_what_has_no_halves_is_refused() -> None:
    with raises(BadLora):
        detection.swap_halves(factors(7))
