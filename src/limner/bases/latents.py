"""The base's training set as its denoiser reads it: latents of varied pictures, tokens of their captions."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.bases.art import TRAINED_STYLES, Art, read_art
from limner.bases.captions import caption, choose
from limner.bases.looks import render
from limner.bases.parts import Size

HELD_OUT = 12
"""One in so many (concept, style) pairs is never shown to the denoiser."""


def held_out(concept: str, style: str) -> bool:
    """Whether a pair is kept from training: by its hash, so that it stays so when nouns are added."""
    return int(hashlib.sha256(f"{concept}/{style}".encode()).hexdigest(), 16) % HELD_OUT == 0


@torch.no_grad()
def build_set(
    art: Path,
    size: Size,
    vae: Any,
    tokenizers: Mapping[str, Any],
    *,
    variants: int,
    from_held_out: bool,
    device: torch.device,
) -> dict[str, Tensor]:
    """Boundary values of every variant of every training picture (or of every held-out pair).

    Returns:
        ``latent_mean`` and ``latent_logvar`` (N, C, h, w) bf16, normalised; ``clip_tokens`` (N, 77) and
        ``t5_tokens`` (N, L) int16, all on ``device``.
    """
    drawings_kept = read_art(art).only(TRAINED_STYLES, size.concepts)
    rows = [
        n
        for n in range(len(drawings_kept.rgba))
        if held_out(drawings_kept.concept[n], drawings_kept.style[n]) == from_held_out
    ]
    rgba = drawings(drawings_kept, size.side)
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    means, spreads, texts = [], [], []
    jobs = [(row, row * 100_003 + turn) for turn in range(variants) for row in rows]
    for start in range(0, len(jobs), 512):
        batch = jobs[start : start + 512]
        choices = [choose(seed) for _, seed in batch]
        images = render(rgba[[row for row, _ in batch]].to(device), choices) * 2 - 1
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(images).latent_dist
        means.append(((posterior.mean.float() - shift) * scale).bfloat16())
        spreads.append((posterior.logvar.float() + 2 * math.log(scale)).bfloat16())
        texts += [
            caption(
                drawings_kept.concept[row], drawings_kept.style[row], choice, seed, strange=not from_held_out
            )
            for (row, seed), choice in zip(batch, choices, strict=True)
        ]
    return {
        "latent_mean": torch.cat(means),
        "latent_logvar": torch.cat(spreads),
        "clip_tokens": _tokens(tokenizers["tokenizer"], texts, 77).to(device),
        "t5_tokens": _tokens(tokenizers["tokenizer_2"], texts, size.text_length).to(device),
    }


def drawings(art: Art, side: int) -> Tensor:
    """(N, 4, side, side) float in [0, 1], from art of 128 px; colours are averaged premultiplied."""
    full = torch.from_numpy(art.rgba).permute(0, 3, 1, 2).float() / 255
    if side == full.shape[-1]:
        return full
    solid = F.avg_pool2d(torch.cat([full[:, :3] * full[:, 3:], full[:, 3:]], dim=1), full.shape[-1] // side)
    return torch.cat([solid[:, :3] / solid[:, 3:].clamp(min=1e-4), solid[:, 3:]], dim=1).clamp(0, 1)


def _tokens(tokenizer: Any, texts: list[str], length: int) -> Tensor:
    distinct = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    out = tokenizer(
        list(distinct), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return out.input_ids.to(torch.int16)[[distinct[text] for text in texts]]
