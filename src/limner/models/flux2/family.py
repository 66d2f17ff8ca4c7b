"""FLUX.2 klein (Black Forest Labs 2026), 4B and 9B, base and distilled.

A rectified-flow transformer that reads three inner states of Qwen3, stacked. Weights:
black-forest-labs/FLUX.2-klein-base-4B (Apache-2.0) and FLUX.2-klein-base-9B (non-commercial, gated); the
distilled ones lose their few steps by training, so train on base and use the LoRA on both.
Oddities: text is padded to 512 and the padding is read; latents are 2x2 patches already before noise comes,
128 channels normalised by the running statistics of a batch norm. Objective: diffusers,
``train_dreambooth_lora_flux2_klein.py``; times are logit-normal and shifted as the sampler does for 50 steps.
Reference images: the tokens of each stand behind those of the noisy latent, with a multiple of 10 as the
first number of their position; ``train_dreambooth_lora_flux2_klein_img2img.py``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from limner.data.control import ControlFit
from limner.graph.unit import unit
from limner.models import latents, rectified
from limner.models.family import Controls, Family, Guidance, Objective, SamplingParams
from limner.models.flux2.facts import FACTS
from limner.models.latents import draw_latent, draw_noise
from limner.models.source import Source
from limner.nn import text
from limner.nn.arch import ArchSpec

STATES = (9, 18, 27)
"""Inner states of the text encoder that are read; its pipeline's ``text_encoder_out_layers``."""
MULTIPLE = 16
REFERENCE_STEP = 10
"""Between the first position numbers of two reference images."""
CONTROL_AREA = 1024 * 1024
"""Pixels that a reference image has at most."""
LEAST_SIDE, MOST_RATIO = 64, 8
"""Of a reference image, by its pipeline's ``check_image_input``: pixels, and long side by short side."""


@unit("tokens", "token_mask", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """B captions -> (B, text_length) token ids of the chats around them, and what of them is no padding."""
    return text.padded_and_mask(tokenizer, text.chats(tokenizer, caption, thinking=False), text_length)


@unit("context", uses=("text_encoder",))
def encode_text(text_encoder: Any, tokens: Tensor, token_mask: Tensor) -> Tensor:
    """(B, L) twice -> (B, L, 3 D)."""
    states = text_encoder.model(
        input_ids=tokens,
        attention_mask=text.seen(token_mask),
        output_hidden_states=True,
        use_cache=False,
    ).hidden_states
    return torch.cat([states[number] for number in STATES], dim=-1)


@unit("latent_mean", "latent_logvar", uses=("vae",), version=2)
def encode_image(vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 -> mean and log-variance of the normalised latent, each (B, 128, H/16, W/16)."""
    return normalised(vae, image, latents.patchify)


def normalised(vae: Any, image: Tensor, patchify: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The same, of patches whose channels stand in such an order."""
    posterior = vae.encode(image.to(vae.dtype) / 127.5 - 1).latent_dist
    middle, width = _statistics(vae)
    return (patchify(posterior.mean) - middle) / width, patchify(posterior.logvar) - 2 * width.log()


@unit("control_latent", uses=("vae",))
def encode_control(vae: Any, control: Tensor) -> Tensor:
    """(B, 3, h, w) uint8 -> the mean of the normalised latent, (B, 128, h/16, w/16)."""
    middle, width = _statistics(vae)
    posterior = vae.encode(control.to(vae.dtype) / 127.5 - 1).latent_dist
    return (latents.patchify(posterior.mode()) - middle) / width


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and spread of each channel, (1, 128, 1, 1), as its batch norm ran them."""
    variance = vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps
    return vae.bn.running_mean.view(1, -1, 1, 1), torch.sqrt(variance)


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    context: Tensor,
    *control_latents: Tensor,
    guidance: float | None,
) -> Tensor:
    """-> (B, 128, h, w), the velocity. ``guidance`` None: the model has no such input."""
    grids = [rectified.noisy(latent, noise, time), *control_latents]
    pred = transformer(
        hidden_states=latents.joined([latents.tokens(grid) for grid in grids], dim=1),
        encoder_hidden_states=context,
        timestep=time,
        guidance=None if guidance is None else torch.full_like(time, guidance),
        img_ids=latents.joined([_position_ids(grid, number) for number, grid in enumerate(grids)], dim=0),
        txt_ids=pad(torch.arange(context.shape[1], device=latent.device).float()[:, None], (3, 0)),
        return_dict=False,
    )[0]
    return latents.untokens(latents.first_grid(pred, grids), latent.shape[-2])


def _position_ids(grid: Tensor, number: int) -> Tensor:
    """(h w, 4) of a grid (B, C, h, w): image, row, column, 0. The noisy latent is image 0."""
    positions = latents.grid(grid.shape[-2], grid.shape[-1], grid.device)
    return pad(pad(positions, (1, 0), value=float(REFERENCE_STEP * number)), (0, 1))


def control_size(width: int, height: int) -> tuple[int, int]:
    """A reference image keeps its size, unless that is above a megapixel; its shape always."""
    area = width * height
    if area <= CONTROL_AREA:
        return width, height
    scale = math.sqrt(CONTROL_AREA / area)
    return int(width * scale), int(height * scale)


def control_fits(_: int) -> Mapping[str, ControlFit]:
    """The one size of a reference image: that of the stock pipeline, whatever the base was made for."""
    return {"control": ControlFit(control_size, MULTIPLE, LEAST_SIDE, MOST_RATIO)}


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's configs decide, unless the recipe decides otherwise."""
    return {
        **rectified.constants(source, objective, patch=1, shift_rule=rectified.empirical_shift),
        "guidance": rectified.guidance(source, objective),
    }


def model_spec(source: Source) -> tuple[str, str]:
    """4B reads Qwen3-4B, 9B the wider Qwen3-8B."""
    wide = source.config("transformer").get("joint_attention_dim", 0) > 7680
    size = "9b" if wide else "4b"
    return f"Flux.2-klein-{size}", f"flux2_klein_{size}"


def _distilled(source: Source) -> bool:
    """The bases that are not klein-base."""
    return bool(source.index.get("is_distilled"))


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called: guidance of 4, or none for a distilled base."""
    return {
        "guidance_scale": params.strength(source, 1.0 if _distilled(source) else 4.0),
        **params.call_kwargs,
        "max_sequence_length": rectified.text_length(source),
    }


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's name of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"]}


DOUBLE = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
JOINT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
FEED = ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out")
SINGLE = ("attn.to_qkv_mlp_proj", "single_transformer_blocks.*.attn.to_out")

ARCH = ArchSpec(
    blocks=("transformer_blocks.*", "single_transformer_blocks.*"),
    depths=("num_layers", "num_single_layers"),
    modulations=("double_stream_modulation_img.linear", "double_stream_modulation_txt.linear")
    + ("single_stream_modulation.linear", "norm_out.linear"),
    conditions=("time_guidance_embed",),
    tails=("transformer_blocks.*.ff.linear_out", "transformer_blocks.*.ff_context.linear_out")
    + ("single_transformer_blocks.*.attn.to_out",),
)

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, encode_text, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("context",),
    supported_options=rectified.SUPPORTED_OPTIONS | {"distill_steps"} | {"guidance"},
    constants=constants,
    targets={"attention": DOUBLE + JOINT + SINGLE, "all-linear": DOUBLE + JOINT + SINGLE + FEED},
    text_targets={},
    layers={},
    model_spec=model_spec,
    multiple=MULTIPLE,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    guidance=Guidance(distilled=_distilled),
    arch=ARCH,
    distilled=rectified.distilled,
    controls=Controls(
        maximum=FACTS.controls[1],
        fits=control_fits,
        units=(encode_control,),
        reads={"denoise": "control_latent"},
    ),
)
