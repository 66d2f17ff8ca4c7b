"""The chain of experts for glyph: Coarse and Fine, which learn what the references themselves show.

``glyph-instant``, the Style expert, sees references of other nouns than it has to paint, so that it learns
what they have in common. Coarse and Fine are shown the very pictures that they have to paint, as those of
Qwen-Image-i2L are. Both read, beside what Style reads, latents place by place: Coarse of pictures at half the
base's side, Fine at the whole, and Fine learns what Coarse, which stays as it is, left out.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from limner.bases.captions import one
from limner.bases.instant_exam import StyleSet, loss, own_set
from limner.bases.style_sets import FAINT, Batch, Drawings, encode_captions, encode_images
from limner.bases.styles import draw
from limner.hyper.predictor import PIXELS, VAE, Look, Looks, Predictor, PredictorConfig
from limner.hyper.train import joined, scaled
from limner.nn.layers.per_sample import Pairs


@dataclass(frozen=True, kw_only=True)
class Expert:
    """Sizes of an expert beside those of Style."""

    rank: int
    bottleneck: int
    detail: int
    """Numbers of its vector of details."""
    side: int
    """Pixels of the pictures whose latents it reads."""
    rows: int
    """Targets of a step."""
    copies: int
    """Of a reference that is alone, among the targets: each has noise of its own."""
    counts: tuple[int, ...]
    """Numbers of references, one of which each batch has: details are those of one picture."""
    silent: float
    """Share of empty captions: what the picture shows is to come from the picture."""


EXPERTS = {
    "coarse": Expert(
        rank=4, bottleneck=64, detail=256, side=32, rows=32, copies=2, counts=(1, 1, 1, 2, 4), silent=0.1
    ),
    "fine": Expert(
        rank=6, bottleneck=24, detail=128, side=64, rows=16, copies=1, counts=(1, 1, 1, 2), silent=0.5
    ),
}
"""Name of a step of the chain -> its sizes. Style has rank 4 and a bottleneck of 16."""
FIRST_STYLE = 5 * 10**14
"""Number of the first style: far from those that Style and the exam have."""


def config_of(style: PredictorConfig, expert: Expert, vae: Any) -> PredictorConfig:
    """Sizes of an expert, for the base and the layers of Style.

    Args:
        style: Of Style.
        expert: What it has beyond.
        vae: The base's autoencoder.
    """
    latents = vae.config.latent_channels * (expert.side // 8) ** 2  # one for 8 x 8 pixels
    return replace(
        style,
        rank=expert.rank,
        bottleneck=expert.bottleneck,
        detail=expert.detail,
        looks=(Look(PIXELS), Look(VAE, latents, expert.side)),
        strength=1.0,
        nested=False,
    )


@torch.no_grad()
def grown(style: Predictor, config: PredictorConfig) -> Predictor:
    """A larger predictor that writes what ``style`` writes until it is trained.

    The further numbers of each bottleneck read everything and write nothing yet, and B of the further ranks
    is zero.
    """
    predictor = Predictor(config)
    copy_reader(style, predictor)
    narrow, width, rank = style.config.bottleneck, style.config.width, style.config.rank
    predictor.inner[:, :, :narrow] = 0
    predictor.inner[:, :width, :narrow] = style.inner
    for number, target in enumerate(config.targets):
        down, up = predictor.down[number].zero_(), predictor.up[number].zero_()
        down.view(-1, config.rank, target.inputs)[:narrow, :rank] = style.down[number].view(
            narrow, rank, target.inputs
        )
        up.view(-1, target.outputs, config.rank)[:narrow, :, :rank] = style.up[number].view(
            narrow, target.outputs, rank
        )
        predictor.static_down[number][:rank] = style.static_down[number]
        predictor.static_up[number][:, :rank] = style.static_up[number]
    return predictor


def untrained(style: Predictor, config: PredictorConfig) -> Predictor:
    """A predictor that reads as ``style`` does and writes nothing until it is trained: a second expert."""
    predictor = Predictor(config)
    copy_reader(style, predictor)
    return predictor


def copy_reader(style: Predictor, predictor: Predictor) -> None:
    """Have a predictor see pixels as ``style`` does."""
    for name in ("encoder", "trunk", "norm"):
        getattr(predictor, name).load_state_dict(getattr(style, name).state_dict())


def looks_at(config: PredictorConfig, vae: Any, references: Tensor) -> Looks:
    """What a predictor for the embedded base reads of references: looks by name.

    Args:
        config: Its sizes.
        vae: The base's autoencoder.
        references: (S, k, 3, side, side) uint8.
    """
    looks = {PIXELS: references}
    for look in config.looks:
        if look.name == VAE:
            images = references.flatten(0, 1).float() / 255
            if look.side != images.shape[-1]:
                images = F.interpolate(images, (look.side, look.side), mode="bicubic", antialias=True)
            latents = encode_images(vae, images.clamp(0, 1))
            looks[VAE] = latents.flatten(1).view(*references.shape[:2], -1)
    return looks


def written(experts: Sequence[Predictor], vae: Any, references: Tensor) -> Pairs:
    """The sum of what experts write of the same references, each at its strength.

    Args:
        experts: Predictors for the embedded base.
        vae: Its autoencoder.
        references: (S, k, 3, side, side) uint8.
    """
    return joined(
        [
            scaled(expert(looks_at(expert.config, vae, references)), expert.config.strength)
            for expert in experts
        ]
    )


@torch.no_grad()
def own_losses(parts: Mapping[str, Any], experts: Sequence[Predictor], style: StyleSet) -> dict[str, float]:
    """Loss of a style's references, each by the LoRA of itself alone, and by the base.

    Args:
        parts: The base's.
        experts: Whose LoRAs are added up.
        style: Of which eight references are taken, four times each.
    """
    own = own_set(style, parts)
    pairs = written(experts, parts["vae"], style.references[:, None])
    return {"loss": loss(parts, own, pairs), "base": loss(parts, own, None)}


def measure(
    parts: Mapping[str, Any], experts: Sequence[Predictor], styles: Sequence[StyleSet]
) -> dict[str, Any]:
    """Gains in loss by group, of the LoRAs of single references: on that image, and on other nouns."""
    gains: dict[str, dict[str, list[float]]] = {"own image": {}, "other nouns": {}}
    for style in styles:
        losses = own_losses(parts, experts, style)
        gains["own image"].setdefault(style.group, []).append(losses["base"] - losses["loss"])
        with torch.no_grad():
            pairs = written(experts, parts["vae"], style.references[None, :1])
        gain = loss(parts, style, None) - loss(parts, style, pairs)
        gains["other nouns"].setdefault(style.group, []).append(gain)
    return {
        word: {group: round(sum(values) / len(values), 4) for group, values in groups.items()}
        for word, groups in gains.items()
    }


class OwnBatches(Dataset[Batch]):
    """Number -> batch whose targets are its references, a pure function of ``seed``; no style comes back."""

    def __init__(self, drawings: Drawings, parts: Mapping[str, Any], expert: Expert, *, seed: int) -> None:
        """Of the drawings whose nouns the base knows, encoded with its ``parts``, for an ``expert``."""
        self.drawings, self.vae, self.expert, self.seed = drawings, parts["vae"], expert, seed
        lines = [line for noun in drawings.nouns for line in (noun, one(noun))]
        self.text = encode_captions(parts, [*lines, ""])
        self.numbers = {noun: number for number, noun in enumerate(drawings.nouns)}

    def __getitem__(self, number: int) -> Batch:
        dice, expert = random.Random(f"own batch {self.seed} {number}"), self.expert
        count = dice.choice(expert.counts)
        styles = expert.rows // max(expert.copies, count)
        copies = expert.rows // (styles * count)
        first = FIRST_STYLE + (self.seed * 10**8 + number) * expert.rows
        sets = [self._visible(first + offset, count) for offset in range(styles)]
        references = torch.stack([images for images, _ in sets])
        nouns = [noun for _, nouns in sets for noun in nouns * copies]
        lines = torch.tensor([self._line(dice, noun) for noun in nouns])
        return Batch(
            (references * 255).round().byte(),
            encode_images(self.vae, references.repeat(1, copies, 1, 1, 1).flatten(0, 1)),
            {name: states[lines] for name, states in self.text.items()},
        )

    def _visible(self, seed: int, count: int) -> tuple[Tensor, list[str]]:
        """Pictures of the style, or of the next seed whose drawings do not vanish, and their nouns."""
        while True:
            images = self.drawings.images(draw(seed), count, 4, wide=False)
            if torch.cat(images[:2]).std(0).mean() > FAINT:
                return images.references, images.reference_nouns
            seed += 10**12

    def _line(self, dice: random.Random, noun: str) -> int:
        """The noun alone in two of three, with its article in the others, but for the silent share."""
        share = dice.random()
        if share >= 1 - self.expert.silent:
            return len(self.numbers) * 2
        return self.numbers[noun] * 2 + (share >= 2 / 3 * (1 - self.expert.silent))
