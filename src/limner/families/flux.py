"""FLUX.1 (Black Forest Labs 2024): dev, schnell, and every base of the same architecture.

A rectified-flow transformer with two text encoders: CLIP gives one pooled vector, T5 a sequence. Weights:
black-forest-labs/FLUX.1-dev (guidance-distilled, non-commercial, gated) and FLUX.1-schnell (Apache-2.0,
distilled to 1-4 steps; a LoRA trained on it drifts, so train on dev and use it on both).
Oddities: text is padded, never masked; 16-channel latents are packed 2x2 into tokens of 64 numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from limner.families.base import Canvas, Family, Objective
from limner.families.source import Source
from limner.graph.unit import Layers, unit
from limner.nn import flow, text
from limner.nn.draws import Draw

CLIP_LENGTH = 77
SHIFT_RANGE = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}


@unit("clip_tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: Sequence[str]) -> Tensor:
    """B captions -> (B, 77) token ids, truncated and padded as the pipeline does."""
    return _tokens(tokenizer, caption, CLIP_LENGTH)


@unit("t5_tokens", uses=("tokenizer_2",))
def tokenize_2(tokenizer_2: Any, caption: Sequence[str], *, text_length: int) -> Tensor:
    """B captions -> (B, text_length) token ids."""
    return _tokens(tokenizer_2, caption, text_length)


@unit("pooled", uses=("text_encoder",), layers=Layers(below=text.clip_below, above=text.clip_above))
def encode_clip(text_encoder: nn.Module, clip_tokens: Tensor) -> Tensor:
    """(B, 77) -> (B, D_clip), the state at the end token."""
    return text_encoder(clip_tokens).pooler_output


@unit("context", uses=("text_encoder_2",), layers=Layers(below=text.t5_below, above=text.t5_above))
def encode_t5(text_encoder_2: nn.Module, t5_tokens: Tensor) -> Tensor:
    """(B, L) -> (B, L, D_t5). Padding is encoded like text: FLUX was trained so."""
    return text_encoder_2(t5_tokens).last_hidden_state


@unit("latent_mean", "latent_spread", uses=("vae",))
def encode_image(vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 -> mean and standard deviation of the normalised latent, each (B, 16, H/8, W/8).

    Both are kept, and the latent is drawn after the cut: otherwise one fixed sample of each image's
    posterior would be trained on for the whole run.
    """
    pixels = image.to(vae.dtype) / 127.5 - 1
    posterior = vae.encode(pixels).latent_dist
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    return (posterior.mean - shift) * scale, posterior.std * scale


@unit("latent")
def draw_latent(latent_mean: Tensor, latent_spread: Tensor, draw: Draw) -> Tensor:
    """One sample of each image's posterior, (B, 16, h, w)."""
    return latent_mean + latent_spread * draw.normal("latent", latent_mean)


@unit("noise")
def draw_noise(latent: Tensor, draw: Draw) -> Tensor:
    """(B, 16, h, w)."""
    return draw.normal("noise", latent)


@unit("time")
def draw_time(
    latent: Tensor, draw: Draw, *, time_density: str, time_shift: float | None, shift_range: tuple[float, ...]
) -> Tensor:
    """(B,) in (0, 1), 1 = noise. ``time_shift`` None shifts by the number of tokens, as the sampler does."""
    shift = (
        flow.resolution_shift(latent[0, 0].numel() // 4, *shift_range) if time_shift is None else time_shift
    )
    return flow.shifted(flow.density(time_density, draw.uniform("time", latent)), shift)


@unit("guess", uses=("transformer",))
def denoise(  # noqa: PLR0913  what a FLUX transformer reads is what it reads
    transformer: nn.Module,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    pooled: Tensor,
    context: Tensor,
    *,
    guidance: float | None,
) -> Tensor:
    """-> (B, h/2 * w/2, 64), the velocity of each token. ``guidance`` None: the model has no such input."""
    return transformer(
        hidden_states=pack(flow.noisy(latent, noise, time)),
        encoder_hidden_states=context,
        pooled_projections=pooled,
        timestep=time,
        guidance=None if guidance is None else torch.full_like(time, guidance),
        img_ids=grid(latent.shape[-2] // 2, latent.shape[-1] // 2, latent.device),
        txt_ids=torch.zeros(context.shape[1], 3, device=latent.device),
        return_dict=False,
    )[0]


@unit("loss")
def measure(guess: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each sample, (B,), in fp32."""
    wanted = pack(flow.velocity(latent, noise))
    return (guess.float() - wanted.float()).square().flatten(1).mean(1)


def pack(latent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h/2 * w/2, 4 C): each token is a 2x2 patch, channels outermost."""
    batch, channels, height, width = latent.shape
    patches = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width // 4, channels * 4)


def grid(height: int, width: int, device: torch.device) -> Tensor:
    """(height * width, 3): (0, row, column) of each token, for the rotary embedding."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).float()


def _tokens(tokenizer: Any, caption: Sequence[str], length: int) -> Tensor:
    full = {"padding": "max_length", "max_length": length, "truncation": True}
    return tokenizer(list(caption), **full, return_tensors="pt").input_ids


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's configs decide, unless the recipe decides otherwise."""
    sampler = source.config("scheduler")
    own_shift = None if sampler.get("use_dynamic_shifting") else float(sampler.get("shift", 1.0))
    density = objective.time_density or "logit-normal"
    if density == "sigmoid":  # the kohya tools' name for logit-normal without a shift
        density, own_shift = "logit-normal", 1.0
    guided = bool(source.config("transformer").get("guidance_embeds"))
    return {
        "text_length": source.facts.get("text_length", 512 if guided else 256),
        "time_density": density,
        "time_shift": own_shift if objective.time_shift is None else objective.time_shift,
        "shift_range": tuple(sampler.get(key, own) for key, own in SHIFT_RANGE.items()),
        "guidance": objective.guidance if guided else None,
    }


def identity(source: Source) -> tuple[str, str]:
    """Dev has a guidance input, schnell has none."""
    guided = bool(source.config("transformer").get("guidance_embeds"))
    return ("flux-1-dev" if guided else "flux-1-schnell"), "flux1"


def options(source: Source, canvas: Canvas) -> dict[str, Any]:
    """How the stock pipeline is called. Without guidance input: true guidance, at twice the time."""
    guided = bool(source.config("transformer").get("guidance_embeds"))
    own = source.facts.get("guidance", 3.5 if guided else 1.0)  # schnell needs none: it is distilled
    guidance = own if canvas.guidance is None else canvas.guidance
    return {
        "negative_prompt": None if guided else "",
        "true_cfg_scale": 1.0 if guided else guidance,
        "guidance_scale": guidance,
        "num_inference_steps": canvas.steps,
        "width": canvas.width,
        "height": canvas.height,
        "max_sequence_length": constants(source, Objective())["text_length"],
    }


def paint(
    source: Source,
    models: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Tensor]],
    blank: Mapping[str, Tensor],
    canvas: Canvas,
) -> list[Image.Image]:
    """One image for each prompt, by the stock pipeline, each from its own seed."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline  # takes half a second to load

    chosen = options(source, canvas)
    guided = chosen.pop("negative_prompt") is None
    stock: Any = FluxPipeline  # its annotations forbid the None that it accepts
    pipe = stock(
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(source.config("scheduler")),
        vae=models["vae"],
        transformer=models["transformer"],
        **dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")),
    )
    pipe.set_progress_bar_config(disable=True)
    out: list[Image.Image] = []
    at_once = max(1, min(16, 512 * 512 // (canvas.width * canvas.height)))
    for start in range(0, len(prompts), at_once):
        some = prompts[start : start + at_once]
        texts = _embeds("", some) | ({} if guided else _embeds("negative_", [blank] * len(some)))
        seeds = range(canvas.seed + start, canvas.seed + start + len(some))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        out += pipe(**texts, **chosen, generator=generators).images
    return out


def _embeds(prefix: str, texts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    context, pooled = (torch.cat([each[name] for each in texts]) for name in ("context", "pooled"))
    return {f"{prefix}prompt_embeds": context, f"{prefix}pooled_prompt_embeds": pooled}


ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
JOINT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
FEED = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp")
SINGLE_OUT = ("single_transformer_blocks.*.proj_out",)

FAMILY = Family(
    name="flux",
    pipeline="FluxPipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:CLIPTokenizer",
        "tokenizer_2": "transformers:T5TokenizerFast",
        "text_encoder": "transformers:CLIPTextModel",
        "text_encoder_2": "transformers:T5EncoderModel",
        "vae": "diffusers:AutoencoderKL",
        "transformer": "diffusers:FluxTransformer2DModel",
    },
    full_precision=("vae",),
    units=(tokenize, tokenize_2, encode_clip, encode_t5, encode_image)
    + (draw_latent, draw_noise, draw_time, denoise, measure),
    text=("pooled", "context"),
    constants=constants,
    targets={
        "attention": ATTENTION + JOINT,
        "all-linear": ATTENTION + JOINT + FEED + SINGLE_OUT,
        "single-blocks": tuple(
            f"single_transformer_blocks.*.{name}" for name in (*ATTENTION[:3], "proj_mlp", "proj_out")
        ),
    },
    text_targets={
        "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        "text_encoder_2": ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"),
    },
    layers={"text_encoder": "encoder.layers", "text_encoder_2": "encoder.block"},
    identity=identity,
    multiple=16,
    options=options,
    paint=paint,
)
