"""Rows: what is encoded of views and captions, and under which cache keys its values lie.

A row, and its keys, are made when they are asked for: of 100,000 images nothing is held but their views.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from limner.assembly.resolve import Resolved
from limner.data.control import ControlImage
from limner.data.views import View, mask_pixels, pixels
from limner.graph.cache import inputs_of, key_maker, text_cache_key
from limner.graph.unit import Unit
from limner.nn.memory import engine
from limner.training.samples import ControlInput, control_inputs

PIXELS, MASKS = 2, 1
"""Bumped when ``data.views`` makes other pixels of a view, or of its mask: part of their cache keys."""

INPUTS = frozenset(("image", "mask", "frame", "caption", "seed"))
"""What a view gives to units, beside control images."""


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


class Rows(Sequence[Row]):
    """A row for each of some views, and some more rows after them."""

    def __init__(self, resolved: Resolved, views: Sequence[View], extra_rows: Sequence[Row] = ()) -> None:
        self._resolved, self._views, self._extra_rows = resolved, views, extra_rows
        self._names = frozenset(name for unit in resolved.spec.units for name in unit.reads)
        self._sizes: dict[Any, dict[str, tuple[int, int]]] = {}
        self._plain_names = self._names & INPUTS

    def __len__(self) -> int:
        return len(self._views) + len(self._extra_rows)

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Row]: ...
    def __getitem__(self, number: int | slice) -> Row | Sequence[Row]:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        number, count = range(len(self))[number], len(self._views)
        return self._row(self._views[number]) if number < count else self._extra_rows[number - count]

    def __iter__(self) -> Iterator[Row]:
        yield from map(self._row, self._views)
        yield from self._extra_rows

    def kinds(self, resolved: Resolved) -> "Iterator[tuple[Kind, list[str]]]":
        """For each row: what kind it is of in a run, and the cache keys of its inputs."""
        kinds: dict[tuple[str, object], Kind] = {}
        for view in self._views:
            kind = kinds.get(key := (resolved.spec.word_in(view.caption), view.shape))
            if view.example.controls or kind is None:
                row = self._row(view)
                kind = kinds[key] = _kind_of(resolved, row)
                yield kind, [*row.inputs.values()]
            else:
                yield kind, [_input_cache_key(view, {}, name) for name in kind.names]
        for row in self._extra_rows:
            yield _kind_of(resolved, row), [*row.inputs.values()]

    def _row(self, view: View) -> Row:
        control_images = control_inputs(self._resolved, view.example.controls, flip=view.flip)
        if view.shape not in self._sizes:
            control_sizes = {name: image.size for name, image in control_images.items()}
            self._sizes[view.shape] = {"image": view.size, "mask": view.size, **control_sizes}
        names = self._names & {*INPUTS, *control_images} if control_images else self._plain_names
        return Row(
            inputs={name: _input_cache_key(view, control_images, name) for name in names},
            value=partial(_value, view, control_images),
            outputs=self._resolved.spec.cut_of(view.caption).boundary,
            caption=view.caption,
            shape=tuple(side for size in view.shape for side in size),
            sizes=self._sizes[view.shape],
        )


class Keys(Sequence[Mapping[str, str]]):
    """For each row: every frozen value that it may need -> cache key of the entry that holds it."""

    def __init__(self, resolved: Resolved, rows: Sequence[Row]) -> None:
        self.rows, self._resolved = rows, resolved
        self.units = resolved.spec.still_cut.frozen
        self._chains: dict[Kind, list[Link]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Mapping[str, str]: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Mapping[str, str]]: ...
    def __getitem__(self, number: int | slice) -> Mapping[str, str] | Sequence[Mapping[str, str]]:
        if isinstance(number, slice):
            return [self.of(row) for row in self.rows[number]]
        return self.of(self.rows[number])

    def of(self, row: Row) -> dict[str, str]:
        """Every frozen value that a row may need -> cache key."""
        keys = dict(row.inputs)
        for link in self._links(_kind_of(self._resolved, row)):
            key = link.key_of(*[keys[name] for name in inputs_of(link.unit)])
            for name in link.unit.writes:
                keys[name] = key
        return keys

    def stored(self) -> "Iterator[list[tuple[Link, str]]]":
        """For each row: units of which something is stored, and its cache key. No row is made for it."""
        rows = self.rows
        inputs = (
            rows.kinds(self._resolved)
            if isinstance(rows, Rows)
            else ((_kind_of(self._resolved, row), [*row.inputs.values()]) for row in rows)
        )
        for kind, keys in inputs:
            links = self._links(kind)
            for link in links:
                keys.append(link.key_of(*[keys[position] for position in link.positions]))
            count = len(keys) - len(links)
            yield [(link, key) for link, key in zip(links, keys[count:], strict=True) if link.outputs]

    def _links(self, kind: "Kind") -> "list[Link]":
        """The units that run for rows of a kind, in their order, and what makes their keys."""
        if kind in self._chains:
            return self._chains[kind]
        used = {name for unit in self.units for name in unit.uses}
        prints = {name: self._resolved.spec.fingerprint(name, kind.word) for name in used}
        if kind.is_tiled and "vae" in prints:  # seams and norms make other numbers of an image
            prints["vae"] += f" tiles of {engine.TILE_SIDE}"
        positions = {name: number for number, name in enumerate(kind.names)}
        links: list[Link] = []
        for unit in self.units:
            if positions.keys() >= set(unit.reads):
                reads = tuple(positions[name] for name in inputs_of(unit))
                outputs = tuple(name for name in unit.writes if name in kind.outputs)
                positions |= dict.fromkeys(unit.writes, len(kind.names) + len(links))
                links.append(Link(unit, key_maker(unit, prints), reads, outputs))
        self._chains[kind] = links
        return links


class Kind(NamedTuple):
    """What decides which units run for a row, and what is kept of them."""

    word: str
    """The new word, where it stands in the caption."""
    is_tiled: bool
    outputs: frozenset[str]
    names: tuple[str, ...]
    """Of its inputs, in their order."""


class Link(NamedTuple):
    """A unit that runs for rows of a kind."""

    unit: Unit
    key_of: Callable[..., str]
    positions: tuple[int, ...]
    """Where the keys that it is made of stand: among those of the inputs, then of the units before."""
    outputs: tuple[str, ...]
    """Those of the values that it computes that are kept."""


def _kind_of(resolved: Resolved, row: Row) -> Kind:
    word = resolved.spec.word_in(row.caption)
    return Kind(word, in_tiles(resolved, row), row.outputs, tuple(row.inputs))


def in_tiles(resolved: Resolved, row: Row) -> bool:
    """Whether the image of a row is encoded in tiles."""
    return resolved.encode_tiled and max(row.shape, default=0) > engine.TILE_SIDE


def rows_of(resolved: Resolved, views: Sequence[View]) -> Rows:
    """A row for each view."""
    return Rows(resolved, views)


def _input_cache_key(view: View, control_images: Mapping[str, ControlInput], name: str) -> str:
    if name in control_images:
        return control_images[name].cache_key
    if name in ("image", "mask"):
        return _view_cache_key(view) if name == "image" else _mask_cache_key(view)
    if name == "caption":
        return text_cache_key(view.caption)
    return text_cache_key(str(view.frame if name == "frame" else view.example.seed))


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
    return _image_cache_key(view.example.sha256, view.size, view.crop, view.flip)


@lru_cache(maxsize=256)  # neighbours show one image with several captions
def _image_cache_key(sha256: str, *cut: object) -> str:
    size, crop, flip = cut
    return text_cache_key(f"{PIXELS} {sha256} {size} {crop} {flip}")


def _mask_cache_key(view: View) -> str:
    mask = view.example.mask
    source = f"{mask.sha256} {mask.alpha} {view.crop} {view.flip}" if mask else "white"
    return text_cache_key(f"mask {MASKS} {view.size} {source}")
