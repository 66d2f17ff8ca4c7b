"""Pictures of procedural styles as a predictor is trained on them: references, and targets of other nouns.

Everything is a pure function of a seed and a number, and no style comes twice.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from limner.bases import latents
from limner.bases.art import Art
from limner.bases.captions import made_up, one
from limner.bases.styles import HANDS, Style, draw, render, widened

FORMS = 24
"""Captions of a noun: the noun, with its article, "picture of", then made-up style words before it."""
TEXT_LENGTH = 8
"""T5 tokens: with 8 in place of 20 the base's losses differ by less than 1 %, a step takes a third less."""
REFERENCES = (1, 2, 4)
"""Numbers of references; each batch has one of them."""
FAINT = 0.03
"""Mean deviation over the pictures of a style below which its drawings vanish against their ground."""


class StyleImages(NamedTuple):
    """Pictures of one style."""

    references: Tensor
    """(k, 3, S, S) in [0, 1]."""
    targets: Tensor
    """(n, 3, S, S) in [0, 1]."""
    reference_nouns: list[str]
    target_nouns: list[str]


class Drawings:
    """Drawings of the base's hands by noun, those that the base knows apart from those that it does not."""

    def __init__(self, art: Art, known: int, side: int) -> None:
        """Of the ``art``, the first ``known`` nouns and the others, at ``side`` pixels."""
        art = art.only(HANDS)
        self.rgba = latents.drawings(art, side)
        pairs = zip(map(str, art.concept), map(str, art.style), strict=True)
        self.rows = {pair: row for row, pair in enumerate(pairs)}
        nouns = list(dict.fromkeys(map(str, art.concept)))
        self.nouns, self.foreign_nouns = nouns[:known], nouns[known:]

    def pick(self, dice: random.Random, noun: str, hands: Sequence[str]) -> int:
        """The row of a drawing of the noun, of one of the hands if they drew it."""
        rows = [self.rows[noun, hand] for hand in hands if (noun, hand) in self.rows]
        return dice.choice(rows or [self.rows[noun, hand] for hand in HANDS if (noun, hand) in self.rows])

    def images(self, style: Style, references: int, targets: int, *, wide: bool) -> "StyleImages":
        """References and targets of a style.

        Args:
            style: What they have in common.
            references: How many to look at.
            targets: How many to paint, of known nouns that no reference shows.
            wide: Whether half of the references show nouns that the base does not know.
        """
        dice = random.Random(f"pictures {style.seed}")
        choice = dice.sample(self.nouns, min(targets, 24))
        rest = [noun for noun in self.nouns if noun not in choice]
        reference_nouns = [
            dice.choice(self.foreign_nouns)
            if wide and dice.random() < 0.5
            else rest.pop(dice.randrange(len(rest)))
            for _ in range(references)
        ]
        target_nouns = [choice[number % len(choice)] for number in range(targets)]
        rows = [self.pick(dice, noun, style.hands) for noun in reference_nouns + target_nouns]
        images = render(style, self.rgba[rows])
        return StyleImages(images[:references], images[references:], reference_nouns, target_nouns)


def visible(style: Style, drawings: Drawings, references: int, targets: int) -> StyleImages:
    """:meth:`Drawings.images` of the style, or of the next seed whose drawings do not vanish."""
    while True:
        images = drawings.images(style, references, targets, wide=True)
        if torch.cat(images[:2]).std(0).mean() > FAINT:
            return images
        style = draw(style.seed + 10**12)


def captions(noun: str) -> list[str]:
    """``FORMS`` captions of a noun; none says a style that the base knows."""
    dice = random.Random(noun)
    plain = [noun, one(noun), f"picture of {one(noun)}"]
    return plain + [f"{made_up(dice)} style {noun}" for _ in range(FORMS - len(plain))]


@torch.no_grad()
def encode_captions(parts: Mapping[str, Any], lines: Sequence[str]) -> dict[str, Tensor]:
    """Captions -> ``pooled`` (N, D_clip) and ``context`` (N, TEXT_LENGTH, D_t5)."""
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    clip = parts["tokenizer"](list(lines), max_length=77, **options).input_ids
    t5 = parts["tokenizer_2"](list(lines), max_length=TEXT_LENGTH, **options).input_ids
    return {
        "pooled": parts["text_encoder"](clip).pooler_output,
        "context": parts["text_encoder_2"](t5).last_hidden_state,
    }


@torch.no_grad()
def encode_images(vae: Any, images: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 1] -> latents (N, C, h, w), float32, by the posterior's mean."""
    with torch.autocast("cpu", torch.bfloat16):
        means = [vae.encode(batch * 2 - 1).latent_dist.mean for batch in images.split(64)]
    return (torch.cat(means).float() - vae.config.shift_factor) * vae.config.scaling_factor


@dataclass(frozen=True)
class Batch:
    """Pictures of a step: k references of each of S styles, G targets of each, in runs by style."""

    references: Tensor
    """(S, k, 3, side, side) uint8."""
    latents: Tensor
    """(S * G, C, h, w)."""
    text: dict[str, Tensor]
    """``pooled`` and ``context`` of S * G captions."""


class Batches(Dataset[Batch]):
    """Number -> batch, a pure function of ``seed``; rendered and encoded when it is asked for."""

    def __init__(
        self,
        drawings: Drawings,
        parts: Mapping[str, Any],
        *,
        styles: int,
        targets: int,
        seed: int,
        wider: float = 0.0,
    ) -> None:
        """``styles`` of a batch and ``targets`` of each, encoded with the base's ``parts``.

        ``wider`` is the share of styles with a finish that only training has (:func:`styles.widened`).
        """
        self.wider = wider
        self.drawings, self.vae = drawings, parts["vae"]
        self.styles, self.targets, self.seed = styles, targets, seed
        lines = [line for noun in drawings.nouns for line in captions(noun)]
        self.text = encode_captions(parts, [*lines, ""])
        self.numbers = {noun: number for number, noun in enumerate(drawings.nouns)}

    def __getitem__(self, number: int) -> Batch:
        dice = random.Random(f"batch {self.seed} {number}")
        count = dice.choice(REFERENCES)
        first = (self.seed * 10**8 + number) * self.styles
        sets = [
            visible(widened(draw(first + offset), self.wider), self.drawings, count, self.targets)
            for offset in range(self.styles)
        ]
        lines = torch.tensor([self._line(dice, noun) for images in sets for noun in images.target_nouns])
        return Batch(
            torch.stack([(images.references * 255).round().byte() for images in sets]),
            encode_images(self.vae, torch.cat([images.targets for images in sets])),
            {name: states[lines] for name, states in self.text.items()},
        )

    def _line(self, dice: random.Random, noun: str) -> int:
        """The noun alone in half, made-up style words in a third, nothing in 8 of 100."""
        share = dice.random()
        if share >= 0.92:
            return len(self.numbers) * FORMS
        form = 0 if share < 0.5 else dice.randrange(1, 3) if share < 0.6 else dice.randrange(3, FORMS)
        return self.numbers[noun] * FORMS + form
