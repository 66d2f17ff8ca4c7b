"""LoRAs trained one per style, all in one batch: what a predictor is compared with, and what it starts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from limner.bases import instant_exam
from limner.bases.instant_exam import StyleSet
from limner.bases.style_sets import encode_captions, encode_images
from limner.hyper.targets import Target
from limner.models import rectified
from limner.nn.layers import per_sample
from limner.nn.layers.per_sample import Pairs

MARKS = (0, 5, 10, 25, 50, 100, 150, 200, 300)
"""Steps at which losses are measured, by the averaged weights."""
SHIFT, DROPOUT, BATCH = 4.0, 0.05, 4
"""Of the times and of the captions, as the style preset of glyph has them; images of a style in a step."""


def fresh(targets: Sequence[Target], styles: int, rank: int, seed: int) -> Pairs:
    """Untrained factors of so many styles."""
    draw = torch.Generator().manual_seed(seed)
    return {
        target.name: (
            torch.randn(styles, rank, target.inputs, generator=draw) / math.sqrt(target.inputs),
            torch.zeros(styles, target.outputs, rank),
        )
        for target in targets
    }


def of_style(pairs: Pairs, number: int) -> dict[str, tuple[Tensor, Tensor]]:
    """One style's factors."""
    return {name: (down[number : number + 1], up[number : number + 1]) for name, (down, up) in pairs.items()}


def stacked(styles: Sequence[Pairs]) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors of single styles as those of a batch."""
    return {
        name: (
            torch.cat([pairs[name][0] for pairs in styles]),
            torch.cat([pairs[name][1] for pairs in styles]),
        )
        for name in styles[0]
    }


def train(  # noqa: PLR0913  what a training is made of
    models: Mapping[str, Any],
    styles: Sequence[StyleSet],
    start: Pairs,
    *,
    rate: float,
    steps: int,
    warm: int = 10,
    seed: int = 0,
) -> tuple[dict[int, dict[str, float]], Pairs]:
    """Train factors of every style on its 8 references.

    Args:
        models: The frozen base, with layers that take factors of several styles.
        styles: One for each style of ``start``.
        start: Factors to begin with.
        rate: Adam's.
        steps: How many.
        warm: Steps until the full rate.
        seed: Of pictures, times and noise.

    Returns:
        Step -> style -> loss on its targets, and the averaged factors at the end.
    """
    factors = {
        name: (down.clone().requires_grad_(), up.clone().requires_grad_())
        for name, (down, up) in start.items()
    }
    weights = [side for sides in factors.values() for side in sides]
    averages = [weight.detach().clone() for weight in weights]
    average = dict(zip(factors, zip(averages[::2], averages[1::2], strict=True), strict=True))
    optimizer = torch.optim.Adam(weights, rate, betas=(0.9, 0.99))
    batches = _batches(models, styles, seed)
    curve: dict[int, dict[str, float]] = {}
    for step in range(steps + 1):
        if step in MARKS or step == steps:
            curve[step] = {
                style.name: instant_exam.loss(models, style, of_style(average, number))
                for number, style in enumerate(styles)
            }
        if step < steps:
            per_sample.bind(models["transformer"], factors)
            losses = instant_exam.losses(models, *next(batches))
            losses.view(len(styles), -1).mean(1).sum().backward()  # each style's gradient is its own
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / warm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 - min(0.98, (1 + step) / (10 + step)))
    return curve, average


def _batches(
    models: Mapping[str, Any], styles: Sequence[StyleSet], seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]]:
    """Latents, noise, times and text of ``BATCH`` references of each style."""
    latents = torch.stack([encode_images(models["vae"], style.references.float() / 255) for style in styles])
    texts = [encode_captions(models, style.reference_nouns) for style in styles]
    text = {name: torch.stack([states[name] for states in texts]) for name in texts[0]}
    empty = encode_captions(models, [""])
    draw = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(styles))[:, None]
    while True:
        picks = torch.rand(latents.shape[:2], generator=draw).argsort(1)[:, :BATCH]
        clean = latents[rows, picks].flatten(0, 1)
        words = {name: states[rows, picks].flatten(0, 1).clone() for name, states in text.items()}
        silent = torch.rand(len(clean), generator=draw) < DROPOUT
        for name, states in words.items():
            states[silent] = empty[name]
        times = rectified.shifted(torch.rand(len(clean), generator=draw), SHIFT)
        yield clean, torch.randn(clean.shape, generator=draw), times, words
