"""Which blocks of a denoiser are rehearsed: one of each sort stands for all that are like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from torch import nn

from limner.assembly.assemble import ModelSpec
from limner.models.family import Family
from limner.models.source import Source
from limner.nn.arch import matching

Sort = tuple[str, frozenset[tuple[str, tuple[int, ...]]], frozenset[tuple[str, int]]]
"""What tells blocks apart: the class, name and shape of every tensor, the layers that learn, their ranks."""


@dataclass(frozen=True)
class Shallow(Source):
    """A base whose denoiser has few blocks."""

    whole: Source = field(kw_only=True)
    part: str = field(kw_only=True)
    changes: Mapping[str, Any] = field(kw_only=True)

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, of the scheduler, or ``model_index``."""
        return {**self.whole.config(part), **(self.changes if part == self.part else {})}


@dataclass(frozen=True)
class Representatives:
    """Who plays which block."""

    source: Source
    """The base whose denoiser has the blocks that play, and no others."""
    parts: tuple[int, ...] | None = None
    """For each block of the true denoiser, in running order, the number of the one that plays it; None: each
    plays itself."""


def choose_representatives(spec: ModelSpec, *, whole: bool = False) -> Representatives:
    """The first block, the last, and of every sort between them the first; all where that cannot be made.

    All as well where what is trained stands outside the blocks and has a part for each of them.

    Args:
        spec: The base, and which of its layers learn.
        whole: Every block plays itself.

    Raises:
        BadBase: A config means nothing.
        BadRecipe: A target is unknown.
    """
    family, source = spec.family, spec.source
    full = Representatives(source)
    if whole or not family.arch.depths or spec.trainable.separate:
        return full
    true = spec.skeleton(family.denoiser)
    sorts = _sorts(spec, true)
    if not all(map(_evenly, sorts)):
        return full  # it names a block by its number: what follows the first that learns is unlike
    ahead = 2 if spec.trainable.sparse else 1
    players = [_chosen(sort, ahead) for sort in sorts]
    changes = _changes(family, source, [sorted(set(group)) for group in players])
    origin = (source.root, source.name, source.facts)
    thin = Shallow(*origin, whole=source, part=family.denoiser, changes=changes)
    parts: list[int] = []
    expected: list[list[Sort]] = []
    for group, numbers in zip(sorts, players, strict=True):
        unique = sorted(set(numbers))
        first = sum(map(len, expected))
        parts += [first + unique.index(number) for number in numbers]
        expected.append([group[number] for number in unique])
    shallow_spec = replace(spec, source=thin)
    actual = _sorts(shallow_spec, shallow_spec.skeleton(family.denoiser))
    return Representatives(thin, tuple(parts)) if actual == expected else full


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
    assignment = []
    for number, sort in enumerate(sorts):
        is_inner = ahead <= number < last
        assignment.append(players.setdefault(sort, number) if is_inner else number)
    return assignment


def _changes(family: Family, source: Source, block_numbers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The changes of the config that leave so many blocks of each kind, told apart as they were."""
    arch = family.arch
    changes: dict[str, Any] = dict(zip(arch.depths, map(len, block_numbers), strict=True))
    config = source.config(family.denoiser)
    starts = accumulate((int(config[key]) for key in arch.depths), initial=0)
    chosen = [
        start + number for start, numbers in zip(starts, block_numbers, strict=False) for number in numbers
    ]
    for key in arch.per_block:
        changes[key] = [config[key][number] for number in chosen]
    for key in arch.listed:
        listed_numbers = set(config.get(key) or ())
        changes[key] = [
            position for position, number in enumerate(block_numbers[0]) if number in listed_numbers
        ]
    return changes


def _sorts(spec: ModelSpec, model: nn.Module) -> list[list[Sort]]:
    """The sort of every block, pattern by pattern."""
    family = spec.family
    ranks = spec.trainable.layers(spec, family.denoiser, model)
    order = list(family.arch.blocks_of(model))
    sorts = []
    for pattern in family.arch.blocks:
        blocks = matching(model, (pattern,))
        sorts.append([_sort(name, blocks[name], ranks) for name in order if name in blocks])
    return sorts


def _sort(name: str, block: nn.Module, ranks: Mapping[str, int]) -> Sort:
    tensors = (*block.named_parameters(), *block.named_buffers())
    shapes = frozenset((key, tuple(entry.shape)) for key, entry in tensors)
    layer_ranks = frozenset(
        (layer.removeprefix(f"{name}."), rank)
        for layer, rank in ranks.items()
        if layer.startswith(f"{name}.")
    )
    return type(block).__name__, shapes, layer_ranks
