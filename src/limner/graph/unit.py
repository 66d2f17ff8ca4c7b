"""A unit is one pure step of a family's forward pass. Its signature is its declaration.

The split cuts the units of a run in two: what can be computed once, and what must be computed on every step.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from limner.errors import BrokenGraph


@dataclass(frozen=True, kw_only=True)
class Layers:
    """How a unit that is one model made of layers is cut between two of them.

    ``below(model, *reads, until=k)`` runs everything before layer ``k`` and returns the hidden state that
    layer ``k`` would read; ``above(model, hidden, *reads, since=k)`` runs the rest. Law: for every ``k``,
    ``above`` after ``below`` equals the unit, bit for bit.
    """

    below: Callable[..., Any]
    above: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One step: reads values by name, calls models by name, writes values by name.

    A unit owns no weights and keeps no state. It may draw random numbers only through the ``draw``
    argument; a unit that has one runs anew on every step and can never be cached.
    """

    name: str
    function: Callable[..., Any]
    uses: tuple[str, ...]
    """Models it calls."""
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    draws: bool
    version: int
    """Bumped when equal inputs give other outputs: part of every cache key."""
    needs: tuple[str, ...] = ()
    """Constants still to be bound, from keyword-only parameters without a default."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Bound constants: part of every cache key."""
    layers: Layers | None = None
    spares: tuple[str, ...] = ()
    """Models of which this unit only uses layers below the first trained one."""
    open_reads: str = ""
    """Name of its ``*`` parameter: it takes any number of further values, which :meth:`reading` names."""

    def reading(self, names: Sequence[str]) -> "Unit":
        """The same unit with these values for its ``*`` parameter; one without it is as it was."""
        return replace(self, reads=(*self.reads, *names), open_reads="") if self.open_reads else self

    def numbered(self, number: int) -> "Unit":
        """The same for the ``number``-th of several values of a kind: all it reads and writes is counted."""
        reads, writes = (tuple(f"{name}_{number}" for name in names) for names in (self.reads, self.writes))
        return replace(self, name=f"{self.name}_{number}", reads=reads, writes=writes)

    def bind(self, **constants: Any) -> "Unit":
        """The same unit with the constants that it declares; those of other units are passed over."""
        bindings = {
            key: value for key, value in constants.items() if key in self.needs or key in self.constants
        }
        open_needs = tuple(name for name in self.needs if name not in bindings)
        return replace(self, constants={**self.constants, **bindings}, needs=open_needs)

    def run(self, models: Mapping[str, Any], values: Mapping[str, Any], draw: Any = None) -> dict[str, Any]:
        """Values written, by name. ``models`` and ``values`` may hold more than the unit declares."""
        if self.needs:
            raise BrokenGraph(f"{self.name} runs before its constants {list(self.needs)} are bound.")
        arguments = [models[name] for name in self.uses] + [values[name] for name in self.reads]
        extra = dict(self.constants) | ({"draw": draw} if self.draws else {})
        out = self.function(*arguments, **extra)
        return dict(zip(self.writes, out if len(self.writes) > 1 else (out,), strict=True))

    def cut(self, layer: int) -> tuple["Unit", "Unit"]:
        """Two units: the layers of its (only) model below ``layer``, and the rest."""
        if self.layers is None or len(self.uses) != 1:
            raise BrokenGraph(f"{self.name} is not made of layers, so it cannot be cut at layer {layer}.")
        hidden = f"{self.name}@{layer}"
        below = replace(
            self,
            name=f"{self.name}[:{layer}]",
            function=partial(self.layers.below, until=layer),
            writes=(hidden,),
            layers=None,
            spares=self.uses,
        )
        above = replace(
            self,
            name=f"{self.name}[{layer}:]",
            function=partial(self.layers.above, since=layer),
            reads=(hidden, *self.reads),
            layers=None,
        )
        return below, above


def unit(
    *writes: str, uses: Sequence[str] = (), version: int = 1, layers: Layers | None = None
) -> Callable[[Callable[..., Any]], Unit]:
    """Make a unit of a function whose parameters are its models, its values, ``draw``, then constants.

    Positional parameters named in ``uses`` are models and come first; the others are values read.
    Keyword-only parameters are constants of the run (:meth:`Unit.bind`). A ``*`` parameter takes any number
    of further values (:meth:`Unit.reading`).
    """

    def wrap(function: Callable[..., Any]) -> Unit:
        parameters = inspect.signature(function).parameters.values()
        variadic = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
        positional = [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)]
        names = [p.name for p in positional if p.name != "draw"]
        only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "draw"]
        if tuple(names[: len(uses)]) != tuple(uses):
            raise BrokenGraph(f"{function.__name__} must take the models {list(uses)} first, not {names}.")
        return Unit(
            name=function.__name__,
            function=function,
            uses=tuple(uses),
            reads=tuple(names[len(uses) :]),
            writes=writes,
            draws=any(p.name == "draw" for p in parameters),
            version=version,
            needs=tuple(p.name for p in only if p.default is p.empty),
            constants={p.name: p.default for p in only if p.default is not p.empty},
            layers=layers,
            open_reads="".join(variadic),
        )

    return wrap


def run(
    units: Sequence[Unit], models: Mapping[str, Any], values: Mapping[str, Any], draw: Any = None
) -> dict[str, Any]:
    """Run units in order over a copy of ``values`` and return every value known at the end.

    A unit whose values are all given is passed over: whoever gives a value decides it. That is how the
    validation loss fixes the times, and how a cached value stands in for the unit that would compute it.
    """
    state = dict(values)
    for unit in units:
        if not all(name in state for name in unit.writes):
            state = unit.run(models, state, draw) | state
    return state


def check(units: Sequence[Unit], inputs: Sequence[str]) -> None:
    """Raise unless every read is an input or written earlier, and no name is written twice."""
    values = set(inputs)
    for unit in units:
        if missing := [name for name in unit.reads if name not in values]:
            raise BrokenGraph(f"{unit.name} reads {missing}, but only {sorted(values)} exist before it.")
        if repeats := [name for name in unit.writes if name in values]:
            raise BrokenGraph(f"{unit.name} writes {repeats} a second time. Give the new value a new name.")
        values.update(unit.writes)


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
