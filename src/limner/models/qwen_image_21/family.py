"""Qwen-Image 2.1 (Qwen 2026): a rectified-flow transformer of 7.1 billion weights in one stream.

Weights: Qwen/Qwen-Image-2.1, and Qwen/Qwen-Image-2.1-Turbo, distilled to eight steps (both Qwen Research
License: research and evaluation only).
Oddities: text is what the last layer of Qwen3-VL gives before the norm behind it, of true length, in a chat
whose system message is dropped again; each token of text sees those before it, the image sees all, and text
is modulated as at time 0. One token is 16 x 16 pixels of an autoencoder of 64 channels, which reads and makes
images with transparency: pictures are opaque as they are read, and what it paints has a fourth channel. The
tokenizer comes inside a processor of images, for which transformers wants torchvision; it alone is read.
Guidance is off by default, as its authors sample. The pipeline's pictures from references are not trained.
Objective: diffusers, ``train_dreambooth_lora_qwenimage21.py``; times are logit-normal, shifted with the image
size as the sampler does (musubi-tuner's ``qwen_shift``).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limner.graph.unit import unit
from limner.models import latents, rectified
from limner.models.family import Family, Objective, SamplingParams, mask_or_none
from limner.models.latents import draw_latent, draw_noise
from limner.models.qwen_image.family import channels_of
from limner.models.qwen_image_21.facts import FACTS
from limner.models.qwen_image_21.forward import forward
from limner.models.source import Source
from limner.nn.arch import ArchSpec, stand_in
from limner.nn.text import layer_outputs

SYSTEM = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
USER, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
"""What the model was trained to read captions in; its pipeline's ``prompt_template_t2i``."""
SYSTEM_TOKENS, END_TOKENS = 64, 16
"""More tokens than these two have."""
TEXT_LENGTH = 1024
"""Most tokens of a caption; its pipeline cuts none."""


@unit("system_tokens", "tokens", uses=("processor",))
def tokenize(processor: Any, caption: Sequence[str], *, text_length: int) -> tuple[Tensor, Tensor]:
    """One caption -> token ids of the system's part of the chat, and of the rest, each (1, L)."""
    (line,) = caption
    parts = ((SYSTEM, SYSTEM_TOKENS), (USER + (line or " "), text_length), (END, END_TOKENS))
    system, text, end = (
        processor([part], max_length=most, truncation=True, return_tensors="pt").input_ids
        for part, most in parts
    )
    return system, torch.cat([text, end], dim=1)


@unit("context", "text_mask", uses=("text_encoder",))
def encode_text(text_encoder: Any, system_tokens: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(1, L') and (1, L) -> (1, L, 4096), what the last layer gives of the latter, and (1, L) True."""
    body = text_encoder.model.language_model
    (states,) = layer_outputs(body, torch.cat([system_tokens, tokens], dim=1), (len(body.layers) - 1,))
    return states[:, system_tokens.shape[1] :], torch.ones_like(tokens, dtype=torch.bool)


@unit("latent_mean", "latent_logvar", uses=("vae",))
def encode_image(vae: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) uint8 -> mean and log-variance of the normalised latent, each (B, 64, H/16, W/16)."""
    pixels = image.to(vae.dtype) / 127.5 - 1
    opaque = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
    posterior = vae.encode(opaque[:, :, None]).latent_dist
    middle, width = channels_of(vae, pixels)
    return (posterior.mean[:, :, 0] - middle) / width, posterior.logvar[:, :, 0] - 2 * width.log()


@unit("pred", uses=("transformer",))
def denoise(  # noqa: PLR0913  what the transformer reads is what it reads
    transformer: nn.Module, latent: Tensor, noise: Tensor, time: Tensor, context: Tensor, text_mask: Tensor
) -> Tensor:
    """-> (B, 64, h, w), the velocity."""
    noisy = rectified.noisy(latent, noise, time)
    undo = stand_in(transformer, partial(forward, transformer))
    try:
        pred = transformer(
            hidden_states=latents.tokens(noisy),
            context=context,
            timestep=time,
            text_mask=mask_or_none(text_mask),
            grid_h=noisy.shape[-2],
        )[0]
    finally:
        undo()
    return latents.untokens(pred[:, context.shape[1] :], noisy.shape[-2])


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's configs decide, unless the recipe decides otherwise."""
    return rectified.constants(source, objective, tokens=TEXT_LENGTH, patch=1)


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """How the stock pipeline is called: without guidance, as its authors sample."""
    return {
        "negative_prompt": "",
        "true_cfg_scale": params.strength(source, 1.0),
        **params.call_kwargs,
        "sigmas": spaced(source.index.get("sample_sigmas"), params.steps),
    }


def spaced(times: Sequence[float] | None, steps: int) -> list[float] | None:
    """The times at which a distilled base samples, for so many steps: its own, or between those.

    The stock pipeline takes all of them whatever number of steps it is told.

    Args:
        times: Those of its ``model_index.json``, without the last 0; None of a base that has none.
        steps: How many.
    """
    if times is None:
        return None
    positions = np.arange(steps) * len(times) / steps
    return np.interp(positions, range(len(times) + 1), [*times, 0.0]).tolist()


def prompt_kwargs(texts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The stock pipeline's names of what it reads of a prompt."""
    return {"prompt_embeds": texts["context"], "prompt_embeds_mask": texts["text_mask"]}


class TextProcessor:
    """What stands for the pipeline's processor of images: its tokenizer, or none where text is encoded."""

    def __init__(self, tokenizer: Any = None) -> None:
        """See the class."""
        self.tokenizer = tokenizer or self

    def __call__(self, text: Sequence[str], **options: Any) -> Any:
        """As the tokenizer reads it."""
        return self.tokenizer(text, **options)

    def apply_chat_template(self, chat: Any, **options: Any) -> list[Any]:
        """One chat -> a list of one row of token ids, as processors give it."""
        return [[] if self.tokenizer is self else self.tokenizer.apply_chat_template(chat, **options)]

    def encode(self, _: str) -> list[int]:
        """A token that nobody reads."""
        return [0]


ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
FEED = ("img_mlp.proj", "img_mlp.gate_layer", "img_mlp.out")

ARCH = ArchSpec(
    blocks=("transformer_blocks.*",),
    depths=("num_layers",),
    modulations=("modulation.1", "norm_out.linear"),
    conditions=("time_text_embed",),
    tails=("transformer_blocks.*.img_mlp.out",),
)

FAMILY = Family(
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    denoiser=FACTS.denoiser,
    parts=FACTS.parts,
    full_precision=("vae",),
    units=(tokenize, encode_text, encode_image)
    + (draw_latent, draw_noise, rectified.draw_time, denoise, rectified.aim, rectified.measure),
    text=("context", "text_mask"),
    supported_options=rectified.SUPPORTED_OPTIONS | {"distill_steps"},
    constants=constants,
    targets={"attention": ATTENTION, "all-linear": ATTENTION + FEED},
    text_targets={},
    layers={},
    model_spec=lambda _: ("Qwen-Image-2.1", "qwen_image_21"),
    multiple=32,
    pipeline_kwargs=pipeline_kwargs,
    prompt_kwargs=prompt_kwargs,
    processors={"processor": TextProcessor},
    one_prompt=True,
    arch=ARCH,
    distilled=rectified.distilled,
    padded_values=frozenset({"context", "text_mask"}),
)
