"""What a predictor is worth while it is trained: losses on styles that it never saw, and the judge's word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limner.bases.art import Art
from limner.bases.captions import Appearance
from limner.bases.demo_sets import BLUEPRINT_FROM, NOUNS, TEST_NOUNS, style_set
from limner.bases.judge import Judge, style_scores
from limner.bases.looks import render as dressed
from limner.bases.style_sets import Drawings, StyleImages, encode_captions, encode_images
from limner.bases.styles import HELD_OUT_KINDS, draw
from limner.hyper.predictor import Predictor, PredictorConfig
from limner.models import rectified
from limner.models.flux.family import denoise
from limner.nn.layers import per_sample
from limner.nn.layers.per_sample import Pairs

DEMO_STYLES = ("blueprint", "ink", "fluent3d")
"""Styles that the base and the predictor have never seen."""
WATCH_STYLES = DEMO_STYLES[:2]
NEW_SEED, HELD_OUT_SEED = 10**15, 2 * 10**15
"""First styles of the exam: of kinds that training has, and of kinds that it has not."""


@dataclass(frozen=True)
class StyleSet:
    """References of one unseen style, and targets with fixed times and noise."""

    name: str
    """``new/3``, ``glow/0``, ``blueprint``."""
    references: Tensor
    """(8, 3, S, S) uint8."""
    reference_nouns: list[str]
    targets: Tensor
    """(N, 3, S, S) in [0, 1]."""
    nouns: list[str]
    latents: Tensor
    noise: Tensor
    time: Tensor
    text: dict[str, Tensor]

    @property
    def group(self) -> str:
        """``new``, ``unseen kinds``, or the name of a style of the demo."""
        prefix = self.name.split("/")[0]
        return "unseen kinds" if prefix in HELD_OUT_KINDS else prefix


def exam(
    art: Art, drawings: Drawings, parts: Mapping[str, Any], *, new: int, kinds: int, targets: int = 32
) -> list[StyleSet]:
    """``new`` styles of known kinds, ``kinds`` of each unseen kind, and the demo's three."""
    sets = {f"new/{n}": drawings.images(draw(NEW_SEED + n), 8, targets, wide=False) for n in range(new)}
    for kind in HELD_OUT_KINDS:
        for number in range(kinds):
            style = draw(HELD_OUT_SEED + number, kind)
            sets[f"{kind}/{number}"] = drawings.images(style, 8, targets, wide=False)
    sets |= {name: _demo_images(name, art, drawings, targets) for name in DEMO_STYLES}
    generator = torch.Generator().manual_seed(99)
    return [_fixed(name, images, parts, generator) for name, images in sets.items()]


def _demo_images(name: str, art: Art, drawings: Drawings, count: int) -> StyleImages:
    """The demo's first eight pictures of a style, and drawings of its test nouns in it."""
    side = drawings.rgba.shape[-1]
    pixels = torch.from_numpy(np.stack([example.pixels for example in style_set(name, art)]))
    pairs = zip(map(str, art.concept), map(str, art.style), strict=True)
    rows = {pair: row for row, pair in enumerate(pairs)}
    hands = BLUEPRINT_FROM if name == "blueprint" else (name,)
    nouns = ([noun for noun in TEST_NOUNS if noun in drawings.nouns] * 4)[:count]
    rgba = np.stack([art.rgba[rows[noun, hands[n % len(hands)]]] for n, noun in enumerate(nouns)])
    look = Appearance(look="blueprint" if name == "blueprint" else "none")
    targets = dressed(torch.from_numpy(rgba).permute(0, 3, 1, 2).float() / 255, [look] * count)
    references = pixels[:8].permute(0, 3, 1, 2).float() / 255
    return StyleImages(
        F.adaptive_avg_pool2d(references, side), F.adaptive_avg_pool2d(targets, side), list(NOUNS[:8]), nouns
    )


def _fixed(name: str, images: StyleImages, parts: Mapping[str, Any], generator: torch.Generator) -> StyleSet:
    count = len(images.targets)
    latents = encode_images(parts["vae"], images.targets)
    order = torch.randperm(count, generator=generator)
    return StyleSet(
        name=name,
        references=(images.references * 255).round().byte(),
        reference_nouns=images.reference_nouns,
        targets=images.targets,
        nouns=images.target_nouns,
        latents=latents,
        noise=torch.randn(latents.shape, generator=generator),
        time=((torch.arange(count) + 0.5) / count)[order],
        text=encode_captions(parts, images.target_nouns),
    )


def own_set(style: StyleSet, parts: Mapping[str, Any], repeats: int = 4) -> StyleSet:
    """A style's references as its targets, each ``repeats`` times in a row, at other times."""
    targets = (style.references.float() / 255).repeat_interleave(repeats, 0)
    nouns = [noun for noun in style.reference_nouns for _ in range(repeats)]
    images = StyleImages(style.references.float() / 255, targets, style.reference_nouns, nouns)
    return _fixed(style.name, images, parts, torch.Generator().manual_seed(98))


def losses(
    parts: Mapping[str, Any], latents: Tensor, noise: Tensor, time: Tensor, text: Mapping[str, Tensor]
) -> Tensor:
    """Flow-matching losses (N,) of the base with what is bound to its layers."""
    velocity = denoise.function(
        parts["transformer"], latents, noise, time, text["pooled"], text["context"], guidance=None
    )
    return (velocity - rectified.velocity(latents, noise)).square().flatten(1).mean(1)


@torch.no_grad()
def loss(parts: Mapping[str, Any], style: StyleSet, pairs: Pairs | None) -> float:
    """Mean loss of a style's targets with a LoRA, at its fixed times and noise."""
    with per_sample.bound(parts["transformer"], pairs):
        return float(losses(parts, style.latents, style.noise, style.time, style.text).mean())


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are made: Euler's method and true guidance."""

    guidance: float
    """1 is none."""
    positive_only: bool = True
    """Whether the negative branch is the base's."""
    steps: int = 16
    seed: int = 0


def sampling_of(config: PredictorConfig, steps: int = 16) -> Sampling:
    """How pictures are made with what a predictor writes."""
    return Sampling(guidance=config.guidance, positive_only=config.lora_on == "positive", steps=steps)


def at_strength(pairs: Pairs, strength: float) -> dict[str, tuple[Tensor, Tensor]]:
    """LoRAs at a strength."""
    return {name: (down, up * strength) for name, (down, up) in pairs.items()}


@torch.no_grad()
def generate(
    parts: Mapping[str, Any], nouns: Sequence[str], pairs: Pairs | None, sampling: Sampling
) -> np.ndarray:
    """A picture of each noun with a LoRA, (N, S, S, 3) uint8."""
    text = encode_captions(parts, [*nouns, ""])
    branches = (
        ({name: states[:-1] for name, states in text.items()}, pairs),
        (
            {name: states[-1:].expand(len(nouns), *states.shape[1:]) for name, states in text.items()},
            None if sampling.positive_only else pairs,
        ),
    )
    draw = torch.Generator().manual_seed(sampling.seed)
    vae = parts["vae"]
    side = vae.config.sample_size // 8
    x = torch.randn(len(nouns), vae.config.latent_channels, side, side, generator=draw)
    times = torch.linspace(1, 0, sampling.steps + 1)
    for now, later in zip(times[:-1], times[1:], strict=True):
        positive, negative = (_velocity(parts, x, now, states, lora) for states, lora in branches)
        x = x + (later - now) * (negative + sampling.guidance * (positive - negative))
    images = vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor).sample
    return (((images + 1) / 2).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _velocity(
    parts: Mapping[str, Any], x: Tensor, now: Tensor, text: Mapping[str, Tensor], pairs: Pairs | None
) -> Tensor:
    with per_sample.bound(parts["transformer"], pairs):
        # a mixture of x with itself is x, whatever the time
        return denoise.function(
            parts["transformer"], x, x, now.expand(len(x)), text["pooled"], text["context"], guidance=None
        )


@torch.no_grad()
def measure(
    parts: Mapping[str, Any], predictor: Predictor, styles: Sequence[StyleSet], judge: Judge
) -> dict[str, Any]:
    """Mean losses by group with 4 references, and the judge's word on ``blueprint`` and ``ink``.

    The judge's are at the guidance, on the branches and at the strength of the predictor's config.
    """
    groups: dict[str, list[float]] = {}
    answers: dict[str, Any] = {}
    nouns = [noun for noun in TEST_NOUNS if noun in judge.concept_names]
    sampling = sampling_of(predictor.config, steps=12)
    for style in styles:
        pairs = at_strength(predictor(style.references[None, :4]), predictor.config.strength)
        groups.setdefault(style.group, []).append(loss(parts, style, pairs))
        if style.name in WATCH_STYLES:
            images = generate(parts, nouns, pairs, sampling)
            answers[style.name] = style_scores(judge, images, nouns, style.name)
    return {
        "loss": {group: sum(values) / len(values) for group, values in groups.items()},
        "judge": answers,
    }
