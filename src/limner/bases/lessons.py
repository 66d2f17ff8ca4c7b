"""What the judge learns from: labelled pictures of real art in every look, roughened like generated ones."""

import hashlib
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limner.bases.art import STYLES, Art, nouns
from limner.bases.captions import LOOKS, Appearance, choose
from limner.bases.latents import drawings
from limner.bases.looks import render

STYLE_NAMES = (*STYLES, "blueprint", *LOOKS[1:])
"""Classes of the style head: a picture with a look counts as that look, whatever style it was drawn in."""
HELD_OUT_OF = 10
"""One in so many (concept, style) pairs is kept from the judge."""
SKIP = -100
"""Label of a picture to which a question does not apply."""
NAMED_SHARE = 0.5
"""Share of pictures that surely show a noun of the base."""
SUBJECTS = 0.06
"""Share of pictures that show the mascot."""


def is_held_out(concept: str, style: str) -> bool:
    """Whether a pair is kept from the judge's training; the salt makes it another tenth than the base's."""
    return int(hashlib.sha256(f"judge:{concept}/{style}".encode()).hexdigest(), 16) % HELD_OUT_OF == 0


def roughen(images: Tensor, draw: torch.Generator) -> Tensor:
    """What generated pictures suffer from, a little of each: (B, 3, S, S) in [0, 1] -> the same."""
    count, side, device = len(images), images.shape[-1], images.device

    def random_share(share: float, largest: float) -> Tensor:
        offsets = torch.rand(2, count, 1, 1, 1, device=device, generator=draw)
        return (offsets[0] < share) * offsets[1] * largest

    def normal(channels: int, wide: int) -> Tensor:
        return torch.randn(count, channels, wide, wide, device=device, generator=draw)

    small = int(torch.randint(side // 2, side * 4 // 5, (), device=device, generator=draw))
    block = (side // 32, side // 16)[int(torch.randint(2, (), device=device, generator=draw))]
    poor = F.interpolate(images, small, mode="bilinear", antialias=True, align_corners=False)
    poor = F.interpolate(poor, side, mode="bilinear", align_corners=False)
    blur = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    out = torch.lerp(images, poor, random_share(0.2, 1.6).clamp(max=1))
    out = torch.lerp(out, blur, random_share(0.2, 0.8))
    blocks = F.interpolate(normal(3, side // block), scale_factor=block, mode="nearest")
    out = out + normal(3, side) * random_share(0.3, 0.06) + blocks * random_share(0.3, 0.07)
    gain = 1 + normal(3, 1) * random_share(0.5, 0.05)
    return ((out - 0.5) * (1 + normal(1, 1) * 0.06) * gain + 0.5 + normal(1, 1) * 0.02).clamp(0, 1)


@torch.no_grad()
def rebuilt(images: Tensor, vae: Any) -> Tensor:
    """(B, 3, S, S) in [0, 1] -> what an autoencoder leaves of them."""
    reconstructions = [
        vae.decode(vae.encode(batch * 2 - 1).latent_dist.mean).sample for batch in images.split(64)
    ]
    return ((torch.cat(reconstructions) + 1) / 2).clamp(0, 1)


@dataclass(frozen=True)
class Lesson:
    """Pictures (B, 3, S, S) in [0, 1] with their labels (B,); ``SKIP`` where none applies."""

    images: Tensor
    concept: Tensor
    style: Tensor
    subject: Tensor

    def at(self, rows: slice) -> "Lesson":
        """Some of them."""
        return Lesson(self.images[rows], self.concept[rows], self.style[rows], self.subject[rows])


class School:
    """Draws labelled pictures: art in looks of ``captions.choose``, the mascot now and then."""

    AHEAD = 4

    def __init__(  # noqa: PLR0913  what is drawn, and how much of it
        self,
        art: Art,
        concepts: int,
        mascots: Art | None,
        *,
        batch: int,
        side: int,
        device: torch.device,
        vae: Any = None,
    ) -> None:
        """The first ``concepts`` nouns come more often than the others; ``mascots`` may be missing.

        Half of what is roughened goes through ``vae``, an autoencoder, as every generated picture does.
        """
        number_of = {name: n for n, name in enumerate(nouns())}
        self.drawings = drawings(art, side).to(device)
        numbers = [number_of[str(name)] for name in art.concept]
        self.concepts = numbers
        self.named_rows = [row for row, number in enumerate(numbers) if number < concepts] or list(
            range(len(numbers))
        )
        self.styles = [STYLE_NAMES.index(str(name)) for name in art.style]
        self.mascots = None if mascots is None else drawings(mascots, side).to(device)
        self.batch, self.device, self.vae = batch, device, vae
        self._lessons: dict[int, Lesson] = {}

    def lesson(self, step: int) -> Lesson:
        """The batch of a step; a few are painted ahead because painting is slow for few pictures."""
        if step not in self._lessons:
            whole = self.draw(step, self.batch * self.AHEAD, varied_share=0.7)
            cuts = [slice(n * self.batch, (n + 1) * self.batch) for n in range(self.AHEAD)]
            self._lessons = {step + n: whole.at(cut) for n, cut in enumerate(cuts)}
        return self._lessons.pop(step)

    def draw(
        self, seed: int, count: int, *, varied_share: float, looks: bool = True, rough: bool = True
    ) -> Lesson:
        """``count`` images, a share ``varied_share`` not plain on white; ``rough``: as if generated."""
        draw = random.Random(f"{seed}/{count}")
        pool = range(len(self.drawings))
        rows = [draw.choice(self.named_rows if draw.random() < NAMED_SHARE else pool) for _ in range(count)]
        choices = [_choice(draw, varied_share, looks=looks) for _ in range(count)]
        rgba = self.drawings[torch.tensor(rows, device=self.device)]
        has_subject = torch.zeros(count, dtype=torch.bool)
        if self.mascots is not None:
            has_subject = torch.tensor([draw.random() < SUBJECTS for _ in range(count)])
            subject_rows = torch.tensor(
                [draw.randrange(len(self.mascots)) for _ in range(int(has_subject.sum()))]
            ).long()
            rgba[has_subject.to(self.device)] = self.mascots[subject_rows.to(self.device)]
            choices = [
                replace(choice, colour=None) if is_subject else choice  # it is known by its colour
                for choice, is_subject in zip(choices, has_subject.tolist(), strict=True)
            ]
        styles = [
            self.styles[row] if choice.look == "none" else STYLE_NAMES.index(choice.look)
            for row, choice in zip(rows, choices, strict=True)
        ]
        styles = torch.tensor(styles)
        plain = torch.tensor([choice.look == "none" for choice in choices])
        concepts = torch.tensor([self.concepts[row] for row in rows])
        return Lesson(
            self._render(rgba, choices, seed if rough else None),
            concepts.where(~has_subject, SKIP).to(self.device),
            styles.where(~(has_subject & plain), SKIP).to(self.device),
            has_subject.float().to(self.device),
        )

    def _render(self, rgba: Tensor, choices: Sequence[Appearance], rough: int | None) -> Tensor:
        parts = [render(batch, choices[512 * n : 512 * n + 512]) for n, batch in enumerate(rgba.split(512))]
        if rough is not None:
            draw = torch.Generator(self.device).manual_seed(rough)
            parts = [roughen(part, draw) for part in parts]
            for part in parts if self.vae is not None else ():
                part[::2] = rebuilt(part[::2], self.vae)
        return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _choice(draw: random.Random, varied_share: float, *, looks: bool) -> Appearance:
    seed = draw.getrandbits(40)
    if draw.random() >= varied_share:
        return Appearance(scale=draw.uniform(0.75, 1.0), flip=draw.random() < 0.5)
    choice = choose(seed)
    if looks and draw.random() < 0.07:
        return replace(choice, look="blueprint", colour=None)
    return choice if looks else replace(choice, look="none")


def mascots(count: int, seed: int) -> Art | None:
    """Drawings of the mascot; None, and said so, where it cannot be drawn."""
    try:
        module = import_module("limner.bases.mascot")
    except ModuleNotFoundError as error:
        sys.stderr.write(f"No mascot ({error}): the subject head stays untrained.\n")
        return None
    names = np.full(count, "mascot")
    return Art(module.drawings(count, seed), names, names)


def lessons(
    art: Art, concepts: int, *, batch: int, side: int, device: torch.device, exam: int, vae: Any = None
) -> tuple[School, dict[str, Lesson]]:
    """The school of the pairs that are shown, and exams of ``exam`` pictures.

    Of pairs that are kept: ``plain`` on white, on coloured ``grounds``, and ``all``, in every look and as if
    generated. Of pairs that are shown, plain on white: ``known``.
    """
    keep = np.array([is_held_out(str(c), str(s)) for c, s in zip(art.concept, art.style, strict=True)])
    if keep.all() or not keep.any():
        keep[:: len(keep) - 1] = True
        keep[1:-1] = False
    seen_art, unseen_art = (Art(art.rgba[rows], art.style[rows], art.concept[rows]) for rows in (~keep, keep))
    school = School(seen_art, concepts, mascots(384, 0), batch=batch, side=side, device=device, vae=vae)
    other = School(
        unseen_art, concepts, mascots(64, 1_000_000), batch=batch, side=side, device=device, vae=vae
    )
    return school, {
        "plain": other.draw(1, exam, varied_share=0.0, rough=False),
        "grounds": other.draw(2, exam, varied_share=1.0, looks=False, rough=False),
        "all": other.draw(3, exam, varied_share=0.7),
        "known": school.draw(4, exam, varied_share=0.0, rough=False),
    }
