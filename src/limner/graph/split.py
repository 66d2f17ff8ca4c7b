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
        return tuple(dict.fromkeys(name for unit in self.live for name in unit.uses))


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
    for unit in _at_layers(units, trained):
        models = set(unit.uses) - set(unit.spares)
        if unit.draws or moving & set(unit.reads) or models & set(trained):
            live.append(unit)
            moving |= set(unit.writes)
        else:
            frozen.append(unit)
    reads = {name for unit in live for name in unit.reads}
    return Split(tuple(frozen), tuple(live), frozenset(reads - moving))


def _at_layers(units: Sequence[Unit], trained: Mapping[str, int]) -> list[Unit]:
    pieces: list[Unit] = []
    for unit in units:
        first = trained.get(unit.uses[0], 0) if unit.layers else 0
        pieces.extend(unit.cut(first) if first > 0 else (unit,))
    return pieces
