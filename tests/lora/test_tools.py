"""What every tool reads of every family, kind by kind; and every spelling that one of them takes wrongly."""

import diffusers
import pytest
import torch

from limner.errors import BadLora
from limner.lora import diffusers_loader
from limner.lora.adapters import Dora, kind
from limner.lora.factors import Factors
from limner.lora.file import require_equal
from limner.lora.formats import from_diffusers, read, to_diffusers
from limner.lora.keys import encode
from limner.lora.tools import (
    COMFYUI,
    DIFFSYNTH,
    DIFFUSERS,
    KOHYA,
    TOOLS,
    decode_as,
    encode_for,
    tool_named,
    unsupported,
)
from limner.models.key_map import KeyStyle
from limner.models.registry import lora_keys
from loras import denoiser, dora, factors, lokr, whole, worst
from messages import raises

KINDS = ("LoRA", "LoHa", "LoKr", "DoRA", "DoRA in")
BOUND = 2e-6


def without(components, names):
    kept = {c: {m: x for m, x in adapter.items() if (c, m) not in names} for c, adapter in components.items()}
    return {c: adapter for c, adapter in kept.items() if adapter}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=list(TOOLS))
@pytest.mark.parametrize("family", lora_keys())
@pytest.mark.parametrize("kind_of", KINDS)
def test_what_is_written_is_read_back_by_the_tool_and_by_us(family: str, tool, kind_of: str) -> None:
    all_of_it = whole(family, kind_of)
    left_out = unsupported(all_of_it, family, tool)
    wished = without(all_of_it, left_out)
    if not wished:
        assert left_out
        return
    flat = encode_for(wished, family, tool)
    seen = decode_as(flat, family, tool)
    assert seen.skipped_modules == ()
    assert worst(seen.components, wished) < 1e-15, "scales are 1, so float32 is exact"
    assert worst(read(flat, {}, family).components, wished) < 1e-15
    for dtype in (torch.float16, torch.bfloat16):
        rounded = {n: tensor if n.endswith(".alpha") else tensor.to(dtype) for n, tensor in flat.items()}
        small = decode_as(rounded, family, tool)
        assert small.skipped_modules == ()
        require_equal("file", tool.name, small.components, wished, dtype)


def test_how_much_each_tool_takes() -> None:
    """The whole of it, but for what is said here."""
    for family in lora_keys():
        for tool in (DIFFUSERS, COMFYUI, KOHYA):
            reasons = set(unsupported(whole(family), family, tool).values())
            known = tool is not KOHYA or family not in ("hidream", "ideogram4", "qwen-image-21")
            assert reasons == (set() if known else {f"kohya has no reader for {family}"})
    assert set(unsupported(whole("flux"), "flux", DIFFSYNTH).values()) == {
        "diffsynth reads no text_encoder of flux",
        "diffsynth reads no text_encoder_2 of flux",
        "diffsynth has no name for it",
    }
    reasons = unsupported({"unet": denoiser("sdxl")}, "sdxl", DIFFSYNTH)
    assert all("conv" in module for _, module in reasons)
    assert len(reasons) > 10
    assert set(unsupported(whole("sd3"), "sd3", DIFFSYNTH).values()) == {"diffsynth has no reader for sd3"}


@pytest.mark.parametrize("family", lora_keys())
def test_stock_diffusers_reads_the_file_for_diffusers(family: str) -> None:
    wished = whole(family)
    pipeline = getattr(diffusers, lora_keys()[family].pipelines[0])
    flat, alphas, settings = diffusers_loader.state(pipeline, encode_for(wished, family, DIFFUSERS))
    assert not alphas
    assert not settings
    assert worst(from_diffusers(flat), wished) == 0


@pytest.mark.parametrize("family", ["anima", "flux2", "qwen-image", "z-image", "sdxl", "sd15"])
def test_stock_diffusers_reads_the_file_for_comfyui_too(family: str) -> None:
    """But for what its own importers drop: the last norm of FLUX.2, SDXL's size embedding."""
    dropped = {
        "flux2": ("norm_out", "time_guidance_embed.guidance", "_modulation"),
        "sdxl": ("add_embedding",),
        "sd15": ("add_embedding",),
    }.get(family, ("nothing",))
    wished = {lora_keys()[family].component: denoiser(family)}
    wished = without(
        wished, {(c, m) for c in wished for m in wished[c] if any(word in m for word in dropped)}
    )
    pipeline = getattr(diffusers, lora_keys()[family].pipelines[0])
    flat, _, _ = diffusers_loader.state(pipeline, encode_for(wished, family, COMFYUI))
    assert worst(read(flat, {}, family).components, wished) < BOUND


def spelled(
    stem: str, *, peft: bool = True, alpha: float | None = None, rank: int = 2
) -> dict[str, torch.Tensor]:
    flat = {f"{stem}.{ending}": tensor for ending, tensor in encode(factors(rank=rank), peft=peft).items()}
    return flat if alpha is None else flat | {f"{stem}.alpha": torch.tensor(alpha)}


SILENT = {
    "flux, the authors' names, peft": (
        "flux",
        spelled("diffusion_model.double_blocks.0.img_attn.proj"),
        "diffusers",
    ),
    "flux, diffusers' names under diffusion_model": (
        "flux",
        spelled("diffusion_model.transformer_blocks.0.attn.to_out.0"),
        "diffusers",
    ),
    "flux, bare": ("flux", spelled("transformer_blocks.0.attn.to_out.0"), "diffusers"),
    "flux, outer layers as kohya": ("flux", spelled("lora_unet_img_in", peft=False), "diffusers"),
    "flux, alpha of the last layer": (
        "flux",
        spelled("lora_unet_final_layer_linear", peft=False, alpha=1.0),
        "diffusers",
    ),
    "flux2, flattened diffusers' names": (
        "flux2",
        spelled("lora_unet_single_transformer_blocks_0_attn_to_out", peft=False),
        "comfyui",
    ),
    "flux2, diffusers' names of the guidance": (
        "flux2",
        spelled("transformer.time_guidance_embed.timestep_embedder.linear_1"),
        "comfyui",
    ),
    "flux2, diffusion_model with diffusers' names": (
        "flux2",
        spelled("diffusion_model.single_transformer_blocks.0.attn.to_out"),
        "comfyui",
    ),
    "z-image, flattened diffusers' names": (
        "z-image",
        spelled("lora_unet_layers_0_attention_to_out_0", peft=False),
        "comfyui",
    ),
    "flux, flattened diffusers' names": (
        "flux",
        spelled("lora_unet_transformer_blocks_0_attn_to_out_0", peft=False),
        "diffusers",
    ),
    "flux2, flattened diffusers' names, in diffusers": (
        "flux2",
        spelled("lora_unet_single_transformer_blocks_0_attn_to_out", peft=False),
        "diffusers",
    ),
    "flux2, the authors' names with alpha": (
        "flux2",
        spelled("diffusion_model.double_blocks.0.img_attn.proj", alpha=1.0),
        "diffusers",
    ),
    "qwen, transformer with alpha": ("qwen-image", spelled("transformer.img_in", alpha=1.0), "diffusers"),
    "z-image, transformer with alpha": (
        "z-image",
        spelled("transformer.cap_embedder.1", alpha=1.0),
        "diffusers",
    ),
    "z-image, outer layers as kohya": ("z-image", spelled("lora_unet_x_embedder", peft=False), "diffusers"),
    "z-image, the authors' names": (
        "z-image",
        spelled("diffusion_model.layers.0.attention.out"),
        "diffusers",
    ),
    "z-image, the authors' names with alpha": (
        "z-image",
        spelled("diffusion_model.layers.0.attention.out", alpha=1.0),
        "diffusers",
    ),
    "sdxl, size embedding under diffusers' names": (
        "sdxl",
        spelled("lora_unet_add_embedding_linear_1", peft=False),
        "diffusers",
    ),
    "sd3, kohya": ("sd3", spelled("lora_unet_joint_blocks_0_x_block_mlp_fc1", peft=False), "diffusers"),
    "sd3, diffusion_model": ("sd3", spelled("diffusion_model.joint_blocks.0.x_block.mlp.fc1"), "diffusers"),
    "sdxl, peft": ("sdxl", spelled("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"), "comfyui"),
    "sdxl, before peft": (
        "sdxl",
        {
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight": factors().down,
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight": factors().up,
        },
        "comfyui",
    ),
    "sdxl, the authors' names": (
        "sdxl",
        spelled("diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"),
        "diffusers",
    ),
    "qwen, transformer": ("qwen-image", spelled("transformer.img_in"), "diffsynth"),
    "z-image, raw peft": ("z-image", spelled("base_model.model.cap_embedder.1"), "comfyui"),
    "qwen, DoRA of peft": (
        "qwen-image",
        {f"transformer.img_in.{ending}": tensor for ending, tensor in encode(dora(), peft=True).items()},
        "comfyui",
    ),
    "qwen, DoRA of LyCORIS": (
        "qwen-image",
        {
            f"lora_unet_img_in.{ending}": tensor
            for ending, tensor in encode(dora(axis="in"), peft=False).items()
        },
        "diffusers",
    ),
    "T5 under diffusers' name": (
        "flux",
        spelled("text_encoder_2.encoder.block.0.layer.0.SelfAttention.q"),
        "comfyui",
    ),
}
"""Rows of the load matrix that a tool takes wrongly, or cannot load."""


def reads_rightly(flat, family: str, tool: str, wished) -> bool:
    if tool != "diffusers":
        seen = decode_as(flat, family, TOOLS[tool])
        return not seen.skipped_modules and worst(seen.components, wished) < BOUND
    names = lora_keys()[family]
    try:
        found = from_diffusers(diffusers_loader.state(getattr(diffusers, names.pipelines[0]), flat)[0])
        return worst(found, wished) < BOUND
    except (BadLora, AssertionError, ValueError, KeyError):
        return False


@pytest.mark.parametrize("row", SILENT)
def test_what_a_tool_takes_wrongly_is_mended_for_it(row: str) -> None:
    family, flat, tool = SILENT[row]
    understood = read(flat, {}, family).components
    assert not reads_rightly(dict(flat), family, tool, understood)
    left_out = unsupported(understood, family, TOOLS[tool])
    if left_out:
        said = "".join(left_out.values())
        assert "has no name for it" in said or ("norms along" in said and "DoRA" in row)
        return
    assert reads_rightly(encode_for(understood, family, TOOLS[tool]), family, tool, understood)


def test_a_fused_file_keeps_its_rank_and_its_strength() -> None:
    down = torch.randn(4, 8)
    members = {f"transformer_blocks.0.attn.to_{n}": Factors(down, torch.randn(8, 4)) for n in "qkv"}
    flat = encode_for({"transformer": members}, "flux", KOHYA)
    assert flat["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"].shape == (4, 8)
    assert flat["lora_unet_double_blocks_0_img_attn_qkv.alpha"] == 4
    members |= {"transformer_blocks.0.attn.to_q": factors(rank=1)}
    flat = encode_for({"transformer": members}, "flux", KOHYA)
    assert flat["lora_unet_double_blocks_0_img_attn_qkv.alpha"] == 9
    assert flat["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape == (24, 9)


def test_kinds_that_cannot_be_fused_go_apart_where_the_tool_takes_them() -> None:
    adapter = {f"transformer_blocks.0.attn.to_{n}": lokr(seed=ord(n)) for n in "qkv"}
    assert "lycoris_transformer_blocks_0_attn_to_q.lokr_w1" in encode_for(
        {"transformer": adapter}, "flux", COMFYUI
    )
    with raises(BadLora):
        encode_for({"transformer": adapter}, "flux", KOHYA)


def test_each_module_that_cannot_be_written_is_told_before_anything_is_encoded() -> None:
    """What --leave-out goes by: kinds without a form for a weight that is one there, all of its parts."""
    adapter = {f"transformer_blocks.0.attn.to_{n}": lokr(seed=ord(n)) for n in "qkv"}
    adapter |= {f"transformer_blocks.1.attn.to_{n}": dora(axis="in", seed=ord(n)) for n in "qk"}
    adapter["context_embedder"] = factors()
    reasons = unsupported({"transformer": adapter}, "flux", KOHYA)
    assert {module for _, module in reasons} == adapter.keys() - {"context_embedder"}
    encode_for(without({"transformer": adapter}, reasons), "flux", KOHYA)


def test_what_its_own_loaders_pass_over_is_refused_for_sd_scripts() -> None:
    """``benchmarks/robustness/loaders.py`` runs them: layers outside the blocks are not made."""
    tool = TOOLS["sd-scripts"]
    for family, component, outer, inner in (
        ("flux", "transformer", {"norm_out.linear", "proj_out"}, "single_transformer_blocks.0.proj_out"),
        ("sdxl", "unet", {"conv_in", "add_embedding.linear_1"}, "mid_block.attentions.0.proj_in"),
        ("sd15", "unet", {"conv_out", "time_embedding.linear_2"}, "down_blocks.0.resnets.0.conv1"),
    ):
        adapter = {component: {name: factors() for name in (*outer, inner)}}
        assert {module for _, module in unsupported(adapter, family, tool)} == outer


def test_musubi_takes_one_kind_in_a_file() -> None:
    mixed = {"transformer": {"img_in": lokr(), "txt_in": factors()}}
    assert [module for _, module in unsupported(mixed, "qwen-image", TOOLS["musubi"])] == ["img_in"]
    assert unsupported({"transformer": {"img_in": lokr()}}, "qwen-image", TOOLS["musubi"]) == {}


def test_what_would_be_computed_wrongly_is_refused() -> None:
    for change, family, tool, reason in (
        (dora(), "sdxl", COMFYUI, "norms along 'out', and the form wanted has them along the other axis"),
        (dora(axis="in"), "sdxl", DIFFUSERS, "norms along 'in'"),
        (lokr(), "sdxl", DIFFUSERS, "diffusers reads no LoKr for sdxl"),
        (dora(), "qwen-image", DIFFSYNTH, "diffsynth reads no DoRA for qwen-image"),
    ):
        component = lora_keys()[family].component
        module = "mid_block.attentions.0.proj_in" if component == "unet" else "img_in"
        with pytest.raises(BadLora, match=reason) as caught:
            encode_for({component: {module: change}}, family, tool)
        assert ".. " not in str(caught.value)
    mixed = {"transformer": {"img_in": dora(), "txt_in": factors()}}
    with raises(BadLora):
        encode_for(mixed, "qwen-image", DIFFUSERS)


def test_what_has_no_name_is_refused() -> None:
    with raises(BadLora):
        encode_for({"transformer": {"extra": factors()}}, "flux", COMFYUI)
    with raises(BadLora):
        encode_for({"transformer": {"extra": factors()}}, None, COMFYUI)
    with raises(BadLora):
        tool_named("a1111")


@pytest.mark.parametrize("family", lora_keys())
def test_comfyui_gets_norms_along_the_input_by_its_own_word_for_them(family: str) -> None:
    """It reads no magnitude of peft's: such a file would load as a plain LoRA, without a word."""
    component = lora_keys()[family].component
    for axis, taken in (("in", True), ("out", False)):
        module = next(name for name in denoiser(family) if "attention.to_" not in name)  # may be fused
        held = {component: {module: dora(axis=axis)}}
        assert (unsupported(held, family, COMFYUI) == {}) == taken
    flat = encode_for({component: {module: dora(axis="in")}}, family, COMFYUI)
    assert sum(name.endswith(".dora_scale") for name in flat) == 1
    assert not any("magnitude" in name for name in flat)
    assert decode_as(flat, family, COMFYUI).skipped_modules == ()


def test_norms_stay_with_their_factors() -> None:
    wished = {
        "transformer": {f"transformer_blocks.0.attn.to_{n}": dora(axis="in", seed=ord(n)) for n in "qk"}
    }
    flat = encode_for(wished, "flux", COMFYUI)
    found = decode_as(flat, "flux", COMFYUI).components
    assert worst(found, wished) == 0
    assert all(isinstance(change, Dora) for change in found["transformer"].values())
    assert (
        kind(read(to_diffusers({"transformer": {"img_in": dora()}}), {}).components["transformer"]["img_in"])
        == "DoRA"
    )
    assert KeyStyle("", "diffusers").render("a.b") == "a.b"


def test_kohyas_trainers_are_told_apart_from_what_others_read_in_their_form() -> None:
    """sd-scripts takes a DoRA for a plain LoRA and makes no module of a LoHa or LoKr; Forge reads them all.

    musubi-tuner keeps Z-Image's q, k and v apart: of the authors' names it passes over all of attention.
    """
    for adapter_kind in ("LoHa", "LoKr", "DoRA"):
        reasons = unsupported({"unet": denoiser("sdxl", adapter_kind)}, "sdxl", TOOLS["sd-scripts"])
        assert set(reasons.values()) == {f"sd-scripts reads no {adapter_kind} for sdxl"}
    adapter = {"transformer": {"layers.3.attention.to_q": factors()}}
    keys_of = {name: set(encode_for(adapter, "z-image", TOOLS[name])) for name in ("musubi", "kohya")}
    assert any("layers_3_attention_to_q" in key for key in keys_of["musubi"])
    assert decode_as(encode_for(adapter, "z-image", KOHYA), "z-image", TOOLS["musubi"]).skipped_modules
    assert set(unsupported(adapter, "z-image", TOOLS["sd-scripts"]).values()) == {
        "sd-scripts has no reader for z-image"
    }


def test_norms_of_a_single_row_are_taken_for_others_by_comfyui() -> None:
    """Its ``weight_decompose`` knows norms along the outputs by as many of them as there are rows."""
    adapter = {"text_fusion.projector": dora(1, 12, axis="in"), "img_in": dora(8, 12, axis="in")}
    reasons = unsupported({"transformer": adapter}, "krea2", COMFYUI)
    assert list(reasons) == [("transformer", "text_fusion.projector")]
    flat = {
        f"transformer.{name}.{key}": tensor
        for name, change in adapter.items()
        for key, tensor in encode(change, peft=True, norms="in").items()
    }
    view = decode_as(flat, "krea2", COMFYUI)
    assert view.skipped_modules == ("transformer.text_fusion.projector",)
    assert list(view.components["transformer"]) == ["img_in"]


def test_comfyui_knows_chromas_guidance_by_the_authors_names_alone() -> None:
    module = "distilled_guidance_layer.layers.0.linear_1"
    flat = {f"transformer.{module}.{key}": tensor for key, tensor in encode(factors(), peft=True).items()}
    assert decode_as(flat, "chroma", COMFYUI).skipped_modules == (f"transformer.{module}",)
    written = encode_for({"transformer": {module: factors()}}, "chroma", COMFYUI)
    assert decode_as(written, "chroma", COMFYUI).skipped_modules == ()
