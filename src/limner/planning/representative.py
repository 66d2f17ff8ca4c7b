"""Which blocks of a denoiser are rehearsed: one of each sort stands for all that are like it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from limner.assembly.spec import ModelSpec
from limner.models.family import Family
from limner.models.source import Source
from limner.nn.arch import matching

Sort = tuple[str, frozenset[tuple[str, tuple[int, ...]]], frozenset[str]]
"""What tells blocks apart: the class, name and shape of every tensor, the layers that learn."""


@dataclass(frozen=True)
class Shallow(Source):
    """A base whose denoiser has few blocks."""

    whole: Source = field(kw_only=True)
    part: str = field(kw_only=True)
    changes: Mapping[str, Any] = field(kw_only=True)

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, or of the scheduler."""
        return {**self.whole.config(part), **(self.changes if part == self.part else {})}


@dataclass(frozen=True)
class Cast:
    """Who plays which block."""

    source: Source
    """The base whose denoiser has the blocks that play, and no others."""
    parts: tuple[int, ...] | None = None
    """For each block of the true denoiser, in running order, the number of the one that plays it; None: each
    plays itself."""


def cast(spec: ModelSpec, *, whole: bool = False) -> Cast:
    """The first block, the last, and of every sort between them the first; all where that cannot be made.

    Args:
        spec: The base, and which of its layers learn.
        whole: Every block plays itself.

    Raises:
        BadBase: A config means nothing.
        BadRecipe: A target is unknown.
    """
    family, source = spec.family, spec.source
    every = Cast(source)
    if whole or not family.arch.depths:
        return every
    true = spec.skeleton(family.denoiser)
    sorts = _sorts(spec, true)
    if not all(map(_evenly, sorts)):
        return every  # it names a block by its number: what follows the first that learns is unlike
    ahead = 2 if spec.trainable.sparse else 1
    chosen = [_chosen(sort, ahead) for sort in sorts]
    changes = _changes(family, source, [sorted(set(some)) for some in chosen])
    place = (source.root, source.name, source.facts)
    thin = Shallow(*place, whole=source, part=family.denoiser, changes=changes)
    parts: list[int] = []
    wanted: list[list[Sort]] = []
    for some, numbers in zip(sorts, chosen, strict=True):
        kept = sorted(set(numbers))
        first = sum(map(len, wanted))
        parts += [first + kept.index(number) for number in numbers]
        wanted.append([some[number] for number in kept])
    few = replace(spec, source=thin)
    made = _sorts(few, few.skeleton(family.denoiser))
    return Cast(thin, tuple(parts)) if made == wanted else every


def _evenly(sorts: Sequence[Sort]) -> bool:
    """Whether the same layers learn in all blocks of one make."""
    return len({sort[:2] for sort in sorts}) == len(set(sorts))


def _chosen(sorts: Sequence[Sort], ahead: int) -> list[int]:
    """For each block of a pattern the one that plays it. What is before and behind the ends is unlike.

    The first ``ahead`` blocks play themselves alone: where few layers learn, it takes more than one block
    until all that flows between them depends on one that does.
    """
    last = len(sorts) - 1
    players: dict[Sort, int] = {}
    chosen = []
    for number, sort in enumerate(sorts):
        between = ahead <= number < last
        chosen.append(players.setdefault(sort, number) if between else number)
    return chosen


def _changes(family: Family, source: Source, kept: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The changes of the config that leave so many blocks of each kind, told apart as they were."""
    arch = family.arch
    changes: dict[str, Any] = dict(zip(arch.depths, map(len, kept), strict=True))
    config = source.config(family.denoiser)
    for key in arch.listed:
        named = set(config.get(key) or ())
        changes[key] = [place for place, number in enumerate(kept[0]) if number in named]
    return changes


def _sorts(spec: ModelSpec, model: nn.Module) -> list[list[Sort]]:
    """The sort of every block, pattern by pattern."""
    family = spec.family
    learn = spec.trainable.layers(spec, family.denoiser, model)
    order = list(family.arch.blocks_of(model))
    sorts = []
    for pattern in family.arch.blocks:
        found = matching(model, (pattern,))
        sorts.append([_sort(name, found[name], learn) for name in order if name in found])
    return sorts


def _sort(name: str, block: nn.Module, learn: Iterable[str]) -> Sort:
    tensors = (*block.named_parameters(), *block.named_buffers())
    shapes = frozenset((key, tuple(each.shape)) for key, each in tensors)
    inside = frozenset(each.removeprefix(f"{name}.") for each in learn if each.startswith(f"{name}."))
    return type(block).__name__, shapes, inside
