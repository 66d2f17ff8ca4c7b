"""Styles: folders of pictures that have something in common. Which of them are held out, which a step sees.

Everything is a pure function of the views, the seed and a position, as in ``data.order``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from limner.data.folder import Example
from limner.data.order import SampledView, choices_of, shuffled, words
from limner.data.views import View
from limner.errors import BadData

IMAGES_PER_STYLE = 8
"""Pictures of a style that is held out whose loss is measured, each beside the others."""
_STYLES, _COUNT, _IMAGES, _VIEW = 2, 3, 4, 5


def styles_of(examples: Sequence[Example]) -> dict[Path, list[Example]]:
    """Folder -> its pictures, different ones, by folder: each folder with pictures in it is a style.

    Raises:
        BadData: A style has one picture only, or there is one style only.
    """
    styles: dict[Path, dict[str, Example]] = {}
    for example in examples:
        styles.setdefault(example.path.parent, {}).setdefault(example.sha256, example)
    for folder, images in styles.items():
        if len(images) < 2:
            raise BadData(
                f"{folder} has one picture, and a style needs two: one to look at, one to paint. Add more, "
                "or remove the folder."
            )
    return {folder: list(styles[folder].values()) for folder in sorted(styles)}


def hold_out_styles(examples: Sequence[Example], count: int) -> frozenset[Path]:
    """Folders of styles to measure on, the same ones while their names stay: those whose hash is least.

    Raises:
        BadData: None would be left to train on.
    """
    styles = styles_of(examples)
    if count >= len(styles):
        raise BadData(
            f"data.validation_count is {count} and there are {len(styles)} styles: none is left to train on. "
            f"Set it to at most {len(styles) - 1}."
        )
    order = sorted(styles, key=lambda folder: hashlib.sha256(folder.name.encode()).digest())
    return frozenset(order[:count])


class _Image(NamedTuple):
    """Indices of the views of a picture."""

    plain: list[int]
    """With its captions."""
    empty: list[int]
    """With the empty one."""
    captions: tuple[str, ...]


class StyleOrder:
    """The endless stream of pictures to paint, in groups of one style, each with its references.

    Styles come one arrangement of all of them after another. Of a style, a group paints ``group`` pictures,
    different ones as far as they go, and looks at others, which have other captions if there are such. All
    groups of a step look at the same number of pictures; where a style has fewer, some come twice.
    """

    def __init__(  # noqa: PLR0913  what a step draws, by what
        self,
        views: Sequence[View],
        *,
        batch: int,
        group: int,
        references: Sequence[int],
        seed: int,
        caption_dropout: float = 0.0,
        static_steps: int = 0,
    ) -> None:
        """Group the views by style.

        Args:
            views: Of all pictures.
            batch: Pictures to paint in a step, a multiple of ``group``.
            group: Of them of one style.
            references: Numbers of pictures to look at, of which each step draws one.
            seed: Of the draws.
            caption_dropout: Share of draws with the empty caption.
            static_steps: Steps at the start that look at nothing.

        Raises:
            BadData: A style has one picture.
        """
        self.batch, self.group, self.seed = batch, group, seed
        self.references, self.static_steps = tuple(references), static_steps
        self.caption_dropout = caption_dropout
        indices: dict[Example, list[int]] = {}
        for index, view in enumerate(views):
            indices.setdefault(view.example, []).append(index)
        self.styles = [
            [
                _Image(*choices_of(views, indices[example], caption_dropout), example.captions)
                for example in images
            ]
            for images in styles_of(list(indices)).values()
        ]
        self._arrangement = lru_cache(maxsize=2)(self._arranged)

    def step(self, step: int) -> list[SampledView]:
        """The draws of a step, counted from 0, group by group."""
        word = int(words(self.seed, _COUNT, step, 1)[0])
        count = 0 if step < self.static_steps else self.references[word % len(self.references)]
        groups = self.batch // self.group
        return [
            sample
            for number in range(step * groups, (step + 1) * groups)
            for sample in self._group(number, count)
        ]

    def _group(self, number: int, count: int) -> list[SampledView]:
        epoch, turn = divmod(number, len(self.styles))
        images = self.styles[self._arrangement(epoch)[turn]]
        draws = iter(words(self.seed, _IMAGES, number, len(images)).tolist())
        order = shuffled(images, draws)
        targets = order[: max(1, min(self.group, len(order) - 1, len(order) - min(count, len(order) // 2)))]
        rest = order[len(targets) :]
        captions = {caption for image in targets for caption in image.captions}
        pool = [image for image in rest if captions.isdisjoint(image.captions)] or rest
        references = tuple(image.plain[0] for image in islice(cycle(pool), count))
        first = number * self.group
        return [
            SampledView(first + offset, self._view(image, first + offset), references)
            for offset, image in enumerate(islice(cycle(targets), self.group))
        ]

    def _view(self, image: _Image, position: int) -> int:
        dropout, choice = words(self.seed, _VIEW, position, 2)
        views = image.empty if int(dropout) < self.caption_dropout * 2**64 else image.plain
        return views[int(choice) % len(views)]

    def _arranged(self, epoch: int) -> list[int]:
        draws = iter(words(self.seed, _STYLES, epoch, len(self.styles)).tolist())
        return shuffled(list(range(len(self.styles))), draws)


def others_of(views: Sequence[View], first: int, limit: int) -> Mapping[int, tuple[int, ...]]:
    """View -> rows of other pictures of its style, at most ``limit``; those of other captions come first.

    Args:
        views: Of pictures that are measured.
        first: The row of the first view.
        limit: At least 1.
    """
    rows: dict[int, tuple[int, ...]] = {}
    for number, view in enumerate(views):
        same_style = [
            index
            for index, other in enumerate(views)
            if other.example.path.parent == view.example.path.parent
            if other.example.sha256 != view.example.sha256
        ]
        same_style.sort(key=lambda index: views[index].caption == view.caption)
        rows[number] = tuple(first + index for index in same_style[:limit])
    return rows
