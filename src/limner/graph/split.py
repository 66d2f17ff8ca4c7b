"""The cut: what can be computed once, and what must be computed on every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limner.graph.unit import Unit


@dataclass(frozen=True)
class Split:
    """A family's units in two parts, each in its old order."""

    frozen: tuple[Unit, ...]
    live: tuple[Unit, ...]
    boundary: frozenset[str]
    """Names the live part reads from the frozen part or the data: exactly what is stored."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """Models that training needs: those that live units call, in order of use."""
        return tuple(dict.fromkeys(name for each in self.live for name in each.uses))


def split(units: Sequence[Unit], trained: Mapping[str, int]) -> Split:
    """Part ``units`` into a frozen prefix and a live rest.

    A unit is live if it calls a trained layer, draws, or reads what a live unit wrote. Nothing else makes
    a unit live, so no earlier cut would be exact and no later one would compute less.

    Args:
        units: In the order they run, as ``check`` accepts them.
        trained: Model name -> index of its first trained layer; 0 means that any of it may change. A unit
            made of layers is cut there, so that the frozen lower layers are computed once too.
    """
    frozen: list[Unit] = []
    live: list[Unit] = []
    moving: set[str] = set()
    for each in _at_layers(units, trained):
        called = set(each.uses) - set(each.spares)
        if each.draws or moving & set(each.reads) or called & set(trained):
            live.append(each)
            moving |= set(each.writes)
        else:
            frozen.append(each)
    needed = {name for each in live for name in each.reads}
    return Split(tuple(frozen), tuple(live), frozenset(needed - moving))


def _at_layers(units: Sequence[Unit], trained: Mapping[str, int]) -> list[Unit]:
    pieces: list[Unit] = []
    for each in units:
        first = trained.get(each.uses[0], 0) if each.layers else 0
        pieces.extend(each.cut(first) if first > 0 else (each,))
    return pieces
