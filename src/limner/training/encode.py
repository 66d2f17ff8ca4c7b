"""Computing what is frozen, once: rows of inputs in, cache keys of stored values out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from limner.assembly.resolve import Resolved
from limner.data.control import ControlImage
from limner.data.views import View, mask_pixels, pixels
from limner.errors import BadBase
from limner.graph.cache import Cache, cache_key, text_cache_key
from limner.graph.unit import Unit
from limner.models.loading import skeleton
from limner.nn import distributed
from limner.nn.memory import engine
from limner.reporter import Reporter
from limner.training.encoders import BackgroundPool, moved, opened
from limner.training.oom_fallback import outcome
from limner.training.samples import ControlInput, control_inputs

PIXELS, MASKS = 2, 1
"""Bumped when ``data.views`` makes other pixels of a view, or of its mask: part of their cache keys."""

INPUTS = frozenset(("image", "mask", "frame", "caption", "seed"))
"""What a view gives to units, beside control images."""
Table = list[dict[str, str]]
"""For each row: value name -> cache key of the entry that holds it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to encode: where its inputs stand in the world of cache keys, and how to get them."""

    inputs: Mapping[str, str]
    """Input -> cache key."""
    value: Callable[[str], Any]
    """Input -> its value. Images are decoded here, so nobody asks for one that it does not read."""
    outputs: frozenset[str]
    """Names of frozen values that this row must have in the end."""
    shape: tuple[int, ...] = ()
    """Width and height of the image, then of each control image, pixels. Rows of one shape need the same
    number of bytes."""
    caption: str = ""
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Input that is a image -> its (width, height) in pixels."""


@dataclass
class Work:
    """What is missing, unit by unit, and what is already there."""

    table: list[dict[str, str]]
    """For each row: every frozen value it may need -> cache key."""
    missing: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Unit name -> (cache key, row) to compute, in this process unless all were asked for."""
    cached_keys: set[str] = field(default_factory=set)
    """Addresses that go to the cache rather than to the scratch of this run."""
    present: frozenset[str] = frozenset()
    """Those of them that are there already."""

    @property
    def missing_keys(self) -> list[str]:
        """Cache keys of the entries that will be written."""
        return [
            cache_key
            for todo in self.missing.values()
            for cache_key, _ in todo
            if cache_key in self.cached_keys
        ]


def rows_of(resolved: Resolved, views: Sequence[View]) -> list[Row]:
    """A row for each view."""
    names = frozenset(name for unit in resolved.spec.units for name in unit.reads)
    sizes: dict[Any, dict[str, tuple[int, int]]] = {}  # shared, as there may be 100,000 rows
    return [_view_row(resolved, view, names, sizes) for view in views]


def _view_row(
    resolved: Resolved, view: View, names: frozenset[str], sizes: dict[Any, dict[str, tuple[int, int]]]
) -> Row:
    control_images = control_inputs(resolved, view.example.controls, flip=view.flip)
    if view.shape not in sizes:
        control_sizes = {name: image.size for name, image in control_images.items()}
        sizes[view.shape] = {"image": view.size, "mask": view.size, **control_sizes}
    return Row(
        inputs={
            name: _input_cache_key(view, control_images, name) for name in names & {*INPUTS, *control_images}
        },
        value=partial(_value, view, control_images),
        outputs=resolved.spec.cut_of(view.caption).boundary,
        caption=view.caption,
        shape=tuple(side for size in view.shape for side in size),
        sizes=sizes[view.shape],
    )


def _input_cache_key(view: View, control_images: Mapping[str, ControlInput], name: str) -> str:
    if name in control_images:
        return control_images[name].cache_key
    if name in ("image", "mask"):
        return _view_cache_key(view) if name == "image" else _mask_cache_key(view)
    return text_cache_key(
        str({"frame": view.frame, "caption": view.caption, "seed": view.example.seed}[name])
    )


def _value(view: View, control_images: Mapping[str, ControlInput], name: str) -> Any:
    if name == "frame":
        return torch.tensor([view.frame])
    if name == "seed":
        return torch.tensor([view.example.seed or 0])
    if name in control_images:
        return control_images[name].tensor()
    if name == "mask":
        return torch.from_numpy(mask_pixels(view))[None, None]
    return image_tensor(view) if name == "image" else (view.caption,)


def caption_row(resolved: Resolved, caption: str, controls: Sequence[ControlImage] = ()) -> Row:
    """A row for a caption that comes without an image, such as a prompt to sample from."""
    control_images = control_inputs(resolved, controls)
    return Row(
        inputs={"caption": text_cache_key(caption)}
        | {name: image.cache_key for name, image in control_images.items()},
        value=lambda name: control_images[name].tensor() if name in control_images else (caption,),
        outputs=resolved.spec.cut_of(caption).boundary & text_values(resolved),
        caption=caption,
        shape=tuple(side for image in control_images.values() for side in image.size),
        sizes={name: image.size for name, image in control_images.items()},
    )


def text_values(resolved: Resolved) -> frozenset[str]:
    """Every value that depends on the caption, and on nothing but it and control images."""
    return _text_values(resolved, resolved.spec.control_inputs)


def text_sees_controls(resolved: Resolved) -> bool:
    """Whether the text is read beside control images, so that it differs with them."""
    return text_values(resolved) != _text_values(resolved, ())


def _text_values(resolved: Resolved, controls: Sequence[str]) -> frozenset[str]:
    of_caption, inputs = {"caption"}, {"caption", *controls}
    cut, still = resolved.cut, resolved.spec.still_cut
    for unit in (*cut.frozen, *cut.live, *still.frozen, *still.live):
        if not unit.draws and set(unit.reads) <= inputs:
            inputs |= set(unit.writes)
            of_caption |= set(unit.writes) if of_caption & set(unit.reads) else set()
    return frozenset(of_caption - {"caption"})


def image_tensor(view: View) -> Tensor:
    """(1, 3, H, W) uint8."""
    return torch.from_numpy(pixels(view).copy()).permute(2, 0, 1)[None]


def _view_cache_key(view: View) -> str:
    return text_cache_key(f"{PIXELS} {view.example.sha256} {view.size} {view.crop} {view.flip}")


def _mask_cache_key(view: View) -> str:
    mask = view.example.mask
    source = f"{mask.sha256} {mask.alpha} {view.crop} {view.flip}" if mask else "white"
    return text_cache_key(f"mask {MASKS} {view.size} {source}")


def survey(
    resolved: Resolved,
    cache: Cache,
    rows: Sequence[Row],
    share: Callable[[str], bool] = distributed.is_owned_by_rank,
) -> Work:
    """Derive every cache key, and find out which entries are missing. Loads nothing, decodes nothing.

    Every entry that may be read is held in ``cache`` first, so that none that is found is pruned meanwhile.

    Args:
        resolved: The run.
        cache: Where they may be.
        rows: What is to be encoded.
        share: Whether an entry is to be made here; all of them are looked for.
    """
    units = resolved.spec.still_cut.frozen
    used = {name for unit in units for name in unit.uses}
    prints = {
        word: {name: resolved.spec.fingerprint(name, word) for name in used}
        for word in ("", resolved.spec.placeholder.word)
    }
    mark = {row.caption: prints[resolved.spec.word_in(row.caption)] for row in rows}
    memo: dict[tuple[str, ...], str] = {}
    work = Work(
        [
            _cache_keys(units, mark[row.caption] | _tiled(resolved, mark[row.caption], row), row, memo)
            for row in rows
        ]
    )
    writer = {name: unit for unit in units for name in unit.writes}
    cache.hold({keys[name] for keys in work.table for name in writer if name in keys})
    row_of_key: dict[str, int] = {}
    for number, (row, keys) in enumerate(zip(rows, work.table, strict=True)):
        for name in row.outputs & set(keys) & set(writer):
            work.cached_keys.add(keys[name])
            row_of_key.setdefault(keys[name], number)
    work.present = frozenset(key for key in row_of_key if key in cache)
    absent = ((key, number) for key, number in row_of_key.items() if key not in work.present)
    todo_rows = {key: number for key, number in absent if share(key)}
    for unit in reversed(units):
        todo = [(key, n) for key, n in todo_rows.items() if work.table[n].get(unit.writes[0]) == key]
        work.missing[unit.name] = sorted(todo, key=lambda pair: pair[1])
        for _, number in todo:
            for name in unit.reads:
                key = work.table[number][name]
                if name in writer and key not in cache:
                    todo_rows.setdefault(key, number)
    return work


def _in_tiles(resolved: Resolved, row: Row) -> bool:
    return resolved.encode_tiled and max(row.shape, default=0) > engine.TILE_SIDE


def _tiled(resolved: Resolved, prints: Mapping[str, str], row: Row) -> dict[str, str]:
    """Fingerprints that tiles change: seams and norms make other numbers of an image."""
    in_tiles = _in_tiles(resolved, row) and "vae" in prints
    return {"vae": f"{prints['vae']} tiles of {engine.TILE_SIDE}"} if in_tiles else {}


def _cache_keys(
    units: Sequence[Unit], prints: Mapping[str, str], row: Row, memo: dict[tuple[str, ...], str]
) -> dict[str, str]:
    """Every value of a row -> its cache key. ``memo`` has what many rows share, such as keys of a caption."""
    keys = dict(row.inputs)
    for unit in units:
        if all(name in keys for name in unit.reads):
            origin = unit.name, *(prints[name] for name in unit.uses), *(keys[name] for name in unit.reads)
            if origin not in memo:
                memo[origin] = cache_key(unit, prints, keys)
            keys |= dict.fromkeys(unit.writes, memo[origin])
    return keys


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
    if part.startswith("tokenizer"):
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
            if "vae" in unit.uses and (cut := sum(_in_tiles(resolved, rows[n]) for _, n in todo)):
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
    table: Table,
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
