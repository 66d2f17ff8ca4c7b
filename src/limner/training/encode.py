"""Computing what is frozen, once: rows of inputs in, cache keys of stored values out."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from limner.assembly.resolve import Resolved
from limner.errors import BadBase, BadData
from limner.graph.cache import Cache, Held
from limner.graph.unit import Unit
from limner.imports import uncollected
from limner.models.facts import is_tokenizer
from limner.models.loading import skeleton
from limner.nn import distributed
from limner.nn.memory import engine
from limner.reporter import Reporter
from limner.training.encoders import BackgroundPool, moved, opened
from limner.training.oom_fallback import outcome
from limner.training.rows import Keys, Link, Row, in_tiles


@dataclass
class Work:
    """What is missing, unit by unit, and what is already there."""

    table: Keys
    """For each row: every frozen value it may need -> cache key."""
    missing: dict[str, list[tuple[str, int]]]
    """Unit name -> (cache key, row) to compute, in this process unless all were asked for."""
    cached_keys: frozenset[str]
    """Addresses that go to the cache rather than to the scratch of this run."""
    entries: Held
    """What was found of them."""
    outputs: "Sequence[Outputs]"
    """For each row: what a run reads of it."""

    @property
    def present(self) -> frozenset[str]:
        """Those of them that are there already."""
        return self.entries.present

    @property
    def missing_keys(self) -> list[str]:
        """Cache keys of the entries that will be written."""
        return [
            cache_key
            for todo in self.missing.values()
            for cache_key, _ in todo
            if cache_key in self.cached_keys
        ]


@uncollected()
def survey(
    resolved: Resolved,
    cache: Cache,
    rows: Sequence[Row],
    share: Callable[[str], bool] = lambda key: True,
) -> Work:
    """Derive every cache key, and find out which entries are missing. Loads nothing, decodes nothing.

    Every entry that may be read is held in ``cache`` before it is looked for, so that none that is found is
    pruned meanwhile.

    Args:
        resolved: The run.
        cache: Where they may be.
        rows: What is to be encoded.
        share: Whether an entry is to be made here; left out, all that are missing are. All are looked for.
    """
    table = Keys(resolved, rows)
    outputs = OutputTable(table.stored())
    keys_of_unit = {unit.name: outputs.keys_of_unit.get(unit.name, {}) for unit in table.units}
    keys = frozenset(key for numbers in keys_of_unit.values() for key in numbers)
    entries = cache.hold(keys)
    missing = {
        name: {key: n for key, n in numbers.items() if key not in entries.present and share(key)}
        for name, numbers in keys_of_unit.items()
    }
    for unit in reversed(table.units):
        for name, numbers in _before(table, unit, missing[unit.name], cache).items():
            missing[name] |= numbers | missing[name]
    sorted_missing = {
        name: sorted(numbers.items(), key=lambda pair: pair[1]) for name, numbers in missing.items()
    }
    return Work(table, sorted_missing, keys, entries, outputs)


def require_alike(work: Work) -> None:
    """Hold what the machines of a run read against each other: all of it is in the cache keys.

    Raises:
        BadData: They have other images, captions or weights.
    """
    if not distributed.several_machines():
        return
    text = "".join(sorted(work.cached_keys))
    marks = distributed.gather(hashlib.sha256(text.encode()).hexdigest())
    others = [number for number, mark in enumerate(marks) if mark != marks[0]]
    if others:
        raise BadData(
            f"Process {others[0]} of {len(marks)} reads other images, captions or weights than process 0. "
            "Copy the same folders and the same base to each machine."
        )


class Outputs(dict[str, str]):
    """Of a row: value that is stored -> its cache key."""

    __slots__ = ()

    @property
    def outputs(self) -> frozenset[str]:
        """Names of the values."""
        return frozenset(self)


class OutputTable(Sequence[Outputs]):
    """For each row what a run reads of it, in a few bytes: a table of 100,000 dictionaries takes 50 MB."""

    def __init__(self, rows: Iterable[Sequence[tuple[Link, str]]]) -> None:
        """Read all of them, and number their keys.

        Args:
            rows: Of each row, the units whose values are stored, and the cache keys of these.
        """
        self.keys_of_unit: dict[str, dict[str, int]] = {}
        """Unit -> cache key of what is stored of it -> the first row that has it."""
        numbers: dict[str, int] = {}
        kinds: dict[tuple[str, ...], int] = {}
        positions, kind_of_row = array("i"), array("i")
        for row, entries in enumerate(rows):
            names: list[str] = []
            for link, key in entries:
                self.keys_of_unit.setdefault(link.unit.name, {}).setdefault(key, row)
                number = numbers.setdefault(key, len(numbers))
                names += link.outputs
                positions.extend([number] * len(link.outputs))
            kind_of_row.append(kinds.setdefault(tuple(names), len(kinds)))
        self._names, self._keys = [*kinds], [*numbers]
        self._kinds, self._positions = kind_of_row, positions
        counts = np.array([len(names) for names in kinds])
        self._starts = np.concatenate([[0], counts[kind_of_row].cumsum()]) if kinds else np.zeros(1)

    def __len__(self) -> int:
        return len(self._kinds)

    @overload
    def __getitem__(self, number: int) -> Outputs: ...
    @overload
    def __getitem__(self, number: slice) -> "list[Outputs]": ...
    def __getitem__(self, number: int | slice) -> "Outputs | list[Outputs]":
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        row = range(len(self))[number]
        keys = (self._keys[key] for key in self._positions[self._starts[row] : self._starts[row + 1]])
        return Outputs(zip(self._names[self._kinds[row]], keys, strict=True))


def _before(table: Keys, unit: Unit, numbers: Mapping[str, int], cache: Cache) -> dict[str, dict[str, int]]:
    """What a unit reads of other units and is not there: unit -> cache key -> row."""
    writer = {name: other.name for other in table.units for name in other.writes}
    reads = [name for name in unit.reads if name in writer]
    numbers_back = [*numbers.values()][::-1]  # so that the first row of a key is the one that stays
    rows_of_name = {name: {table[number][name]: number for number in numbers_back} for name in reads}
    entries = cache.hold({key for keys in rows_of_name.values() for key in keys})
    absent: dict[str, dict[str, int]] = {}
    for name, keys in rows_of_name.items():
        absent.setdefault(writer[name], {}).update(
            {key: number for key, number in keys.items() if key not in entries.present}
        )
    return absent


def bytes_needed(resolved: Resolved, rows: Sequence[Row], work: Work) -> int:
    """Bytes that the missing entries will take, from shapes alone: models run on the meta device."""
    units = {unit.name: unit for unit in resolved.spec.still_cut.frozen}
    sizes: dict[tuple[str, tuple[int, ...]], int] = {}
    total = 0
    models: dict[str, Any] = {}
    outputs: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, todo in work.missing.items():
        for entry, number in todo:
            if entry not in work.cached_keys:
                continue
            key = (name, rows[number].shape)
            if key not in sizes:
                sizes |= _shapes(resolved, units, rows[number], models, outputs)
            total += sizes[key]
    return total


def _shapes(
    resolved: Resolved,
    units: Mapping[str, Unit],
    row: Row,
    models: dict[str, Any],
    outputs: dict[tuple[Any, ...], dict[str, Any]],
) -> dict[tuple[str, tuple[int, ...]], int]:
    """Unit name and row shape -> bytes written.

    ``models`` and ``outputs`` remember skeletons and what each unit made of inputs of each shape: a text
    encoder does not run again for every shape of the images.
    """
    values: dict[str, Any] = {name: _blank(row, name) for name in row.inputs}
    sizes = {}
    for unit in units.values():
        if not all(name in values for name in unit.reads):
            continue
        key = (unit.name, *(_shape_of(values[name]) for name in unit.reads))
        if key not in outputs:
            for name in unit.uses:
                if name not in models:
                    models[name] = _skeleton(resolved, name)
            with torch.no_grad():
                outputs[key] = {name: _meta(value) for name, value in unit.run(models, values).items()}
        values |= outputs[key]
        size = sum(value.numel() * value.element_size() for value in outputs[key].values())
        sizes[unit.name, row.shape] = size + 512
    return sizes


def _shape_of(value: Any) -> Any:
    """What of an input decides the shapes of the outputs: shape and dtype of a tensor, all of a caption."""
    return (value.shape, value.dtype) if isinstance(value, Tensor) else value


def _blank(row: Row, name: str) -> Any:
    """A stand-in for an input: an image is not decoded for its shape."""
    if name in row.sizes:
        width, height = row.sizes[name]
        channels = 1 if name == "mask" else 3
        return torch.empty((1, channels, height, width), dtype=torch.uint8, device="meta")
    return _meta(row.value(name))


def _meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def _skeleton(resolved: Resolved, part: str) -> Any:
    if is_tokenizer(part):
        return resolved.spec.part(part, torch.device("cpu"))
    return skeleton(resolved.family, resolved.source, part, dtype=resolved.dtype)


def fill(resolved: Resolved, cache: Cache, rows: Sequence[Row], work: Work, reporter: Reporter) -> int:
    """Compute and store what is missing, one unit at a time, so that only one encoder is ever loaded.

    Returns:
        Bytes written by this process.

    Raises:
        OutOfMemoryError: In this process or another; what was stored stays.
    """
    results, short = outcome(lambda: _fill(resolved, cache, rows, work, reporter))
    if short is not None:
        raise torch.OutOfMemoryError(short)
    return results[0]


def _fill(resolved: Resolved, cache: Cache, rows: Sequence[Row], work: Work, reporter: Reporter) -> int:
    scratch: dict[str, dict[str, Tensor]] = {}
    byte_count = 0

    def count(size: int) -> None:
        nonlocal byte_count
        byte_count += size
        bar.advance(note=unit.name)

    with (
        reporter.progress("Caching", len(work.missing_keys)) as bar,
        torch.no_grad(),
        BackgroundPool(count) as pool,
    ):
        for unit in resolved.spec.still_cut.frozen:
            todo = work.missing[unit.name]
            if "vae" in unit.uses and (cut := sum(in_tiles(resolved, rows[n]) for _, n in todo)):
                reporter.line(
                    f"{cut} of {len(todo)} images are encoded in tiles of {engine.TILE_SIDE} pixels."
                )
            gather = partial(_inputs, cache, scratch, rows, work.table, unit)
            with ExitStack() as stack:
                models = {name: stack.enter_context(opened(resolved, name)) for name in unit.uses if todo}
                for (key, _), values in zip(todo, pool.ahead(gather, [n for _, n in todo]), strict=True):
                    out = unit.run(models, moved(values, resolved.device))
                    _require_finite(resolved, unit, out)
                    host_values = {name: value.cpu() for name, value in out.items()}
                    if key in work.cached_keys:
                        pool.behind(cache.write, key, host_values, unit.name)
                    else:
                        scratch[key] = host_values
            pool.settle()
            del models
    return byte_count


def _require_finite(resolved: Resolved, unit: Unit, out: Mapping[str, Tensor]) -> None:
    """Raise ``BadBase`` rather than train on NaN for ever: an entry is computed once."""
    if not all(value.isfinite().all() for value in out.values()):
        raise BadBase(
            f"{resolved.source.name}: {' and '.join(unit.uses)} computes numbers that are not finite: "
            f"damaged or too large for the precision. {resolved.source.again} Or set limits.compute_dtype = "
            '"fp32".'
        )


def _inputs(  # noqa: PLR0913  everything that an input may come from
    cache: Cache,
    scratch: Mapping[str, Mapping[str, Tensor]],
    rows: Sequence[Row],
    table: Keys,
    unit: Unit,
    number: int,
) -> dict[str, Any]:
    """What ``unit`` reads of row ``number``: decoded, just computed, or from the cache."""
    row, keys = rows[number], table[number]
    values: dict[str, Any] = {}
    for name in unit.reads:
        if name in row.inputs:
            values[name] = row.value(name)
        elif keys[name] in scratch:
            values[name] = scratch[keys[name]][name]
        else:
            values[name] = cache.read(keys[name])[name]
    return values
