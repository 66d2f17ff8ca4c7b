"""The verb ``cache``: compute what is frozen, once, and know what a run will need before it starts."""

import base64
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, ImageStat
from torch import Tensor

from limner.assembly.datasets import cut_captions, set_names, shares_of, token_counter
from limner.assembly.resolve import Resolved, cache_root, resolve
from limner.data.captions import has_word
from limner.data.folder import Example, Folder, Rejected
from limner.data.images import read_image
from limner.data.masks import tinted
from limner.data.order import LOOK, SampledView
from limner.data.views import View
from limner.events import CacheFilled
from limner.files import human, remove_dead_drafts, require_space, write_json, write_text
from limner.graph.cache import Cache, register, remember
from limner.imports import uncollected
from limner.models.facts import is_tokenizer
from limner.models.family import pad_collate
from limner.nn import distributed
from limner.nn.rng import to_device
from limner.recipe import toml
from limner.recipe.schema import DataSet, Recipe
from limner.reporter import Reporter
from limner.run_folder import SHOWN_IMAGES, RunDir
from limner.training.encode import Outputs, bytes_needed, fill, require_alike, survey
from limner.training.interrupt import Interrupt
from limner.training.oom_fallback import OomFallback, Planner, oom_fallback_of, with_smaller_plans
from limner.training.rows import Rows, caption_row, text_sees_controls
from limner.training.samples import SamplePrompt, negative_prompts, prompts_of, sample_prompts

MEMORY_BYTES = 2**31
"""Bytes of frozen values held in memory while training; the rest is read again when it is drawn."""
THUMBNAIL = 160


class Store:
    """Frozen values of rows, read through a bounded memory."""

    def __init__(
        self,
        cache: Cache,
        table: Sequence[Outputs],
        keys: Collection[str],
        *,
        padded: Collection[str] = (),
        room: int = MEMORY_BYTES,
    ) -> None:
        self.cache, self.table, self.rows, self.padded, self.room = cache, table, table, padded, room
        self._keys = keys
        self._values: dict[str, dict[str, Tensor]] = {}

    def row(self, number: int) -> dict[str, Tensor]:
        """The boundary values of row ``number``, on the CPU, batch size 1."""
        return {name: self._entry(key)[name] for name, key in self.table[number].items()}

    def batch(self, numbers: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Rows of one shape, stacked and moved."""
        rows = [self.row(number) for number in numbers]
        return {
            name: to_device(
                (pad_collate if name in self.padded else torch.cat)([row[name] for row in rows]), device
            )
            for name in rows[0]
        }

    def drawn(self, samples: Sequence[SampledView], device: torch.device) -> dict[str, Tensor]:
        """Rows of one shape as :meth:`batch` has them; looks are those at the references of each.

        Where neighbours have the same references, and equally many of them each time, they stand there once
        for all of them: what is made of them is for so many rows.
        """
        values = self.batch([sample.view_index for sample in samples], device)
        runs = [(rows, len([*group])) for rows, group in groupby(sample.references for sample in samples)]
        if len({length for _, length in runs}) > 1:
            runs = [(sample.references, 1) for sample in samples]
        for name in [name for name in values if name.startswith(LOOK)]:
            if not runs[0][0]:
                values[name] = values[name][:, :0]
                continue
            sets = [
                torch.cat([self._entry(self.table[row][name])[name] for row in rows], 1) for rows, _ in runs
            ]
            values[name] = to_device(torch.cat(sets), device)
        return values

    def cache_keys(self) -> list[str]:
        """Every entry that the rows read, sorted."""
        return sorted(self._keys)

    def _entry(self, cache_key: str) -> dict[str, Tensor]:
        if cache_key in self._values:
            return self._values[cache_key]
        values = self.cache.read(cache_key)
        size = sum(value.numel() * value.element_size() for value in values.values())
        if size <= self.room:
            self.room -= size
            self._values[cache_key] = values
        return values


class BaseImages(Protocol):
    """Pictures that the base generates before it is trained: ``generation.class_images``."""

    def taught(self, recipe: Recipe, run: RunDir, reporter: Reporter) -> Recipe:
        """The recipe with a teacher's pictures as its images, where it distils; or as it was."""
        ...

    def with_prior(self, resolved: Resolved, run: RunDir, reporter: Reporter) -> Resolved:
        """The run with what keeps the base as it is, where the recipe wants that; or as it was."""
        ...


def joined(
    store: Store,
    samples: Sequence[SampledView],
    device: torch.device,
    read: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Values of rows of one shape, stacked and moved, though less is stored of some captions than of others.

    Those with a new word in them lie there as tokens, others as what the encoders made of them.

    Args:
        store: Where they are.
        samples: Whose rows are read.
        device: Where to.
        read: From the values of rows that are alike, adds what is computed of their captions.
    """
    kinds: dict[frozenset[str], list[int]] = {}
    for position, sample in enumerate(samples):
        kinds.setdefault(store.rows[sample.view_index].outputs, []).append(position)
    if len(kinds) == 1:
        return store.drawn(samples, device)
    parts = [read(store.drawn([samples[n] for n in positions], device)) for positions in kinds.values()]
    common = [name for name in parts[0] if all(name in part for part in parts)]
    order = torch.tensor([n for positions in kinds.values() for n in positions]).argsort().to(device)
    return {
        name: (pad_collate if name in store.padded else torch.cat)([part[name] for part in parts])[order]
        for name in common
    }


def cache(
    recipe: Recipe, run: RunDir, reporter: Reporter, planner: Planner, base_images: BaseImages
) -> CacheFilled:
    """Fill the cache for a recipe and record in the run folder what the run will read.

    Safe to run alone, again, in several processes that a launcher started, and to kill at any moment.
    """
    distributed.start(recipe.limits.timeout)
    with run.lock() if distributed.rank() == 0 else nullcontext(), Interrupt(reporter.stop) as stop:
        reporter = reporter.until(stop.due)
        resolved = resolve(base_images.taught(recipe, run, reporter), reporter.line)
        resolved = base_images.with_prior(resolved, run, reporter)
        if resolved.device.type == "cuda":  # encoders may be larger than it
            store, report = fill_cache_with_fallback(
                resolved, oom_fallback_of(recipe, reporter, planner), reporter
            )
        else:
            store, report = fill_cache(resolved, reporter)
        with closing(store.cache):
            if not run.checkpoints():  # a run that has begun keeps its own recipe
                record(resolved, run, store)
        return report


def all_rows(resolved: Resolved) -> Rows:
    """Rows of the training views, the validation views, the prompts, and the negative ones, in this order.

    Where text is read beside control images, there is a negative one for each prompt, with its images.
    """
    items = sample_prompts(resolved)
    rows = [caption_row(resolved, item.prompt, item.controls) for item in items]
    if resolved.recipe.sample.every != -1:
        if text_sees_controls(resolved):
            rows += [caption_row(resolved, item.negative, item.controls) for item in items]
        else:
            rows += [caption_row(resolved, text) for text in negative_prompts(items)]
    return Rows(resolved, (*resolved.views, *resolved.held_out), rows)


def fill_cache(resolved: Resolved, reporter: Reporter) -> tuple[Store, CacheFilled]:
    """Everything frozen that a run reads: verified where it is there, computed where it is missing.

    Raises:
        BadCache: An entry was written by another version.
        DiskFull: There is no room for what is missing.
    """
    start = time.monotonic()
    for remark in (*resolved.remarks, *_cut_captions(resolved)):
        reporter.line(remark)
    store = Cache(cache_root(resolved.recipe))
    for shard in store.root.glob("??"):
        remove_dead_drafts(shard)
    rows = all_rows(resolved)
    share = distributed.share_of(store.root)
    work = survey(resolved, store, rows, share.owns)
    require_alike(work)
    count = len(work.present) + len(work.missing_keys)
    own_suspects = [key for key in work.entries.suspects if share.owns(key)]
    if distributed.any_rank(_discard_damaged(store, own_suspects, count, reporter)):
        work = survey(resolved, store, rows, share.owns)
    whole = work if distributed.world() == 1 else survey(resolved, store, rows)
    missing, reused_count = whole.missing_keys, len(whole.present)
    distributed.barrier()  # what another computes must not pass for what was there
    if missing:
        size = bytes_needed(resolved, rows, whole)
        reporter.line(
            f"Cache: {reused_count} entries reused, {len(missing)} to compute, {human(size)} in {store.root}."
        )
        require_space(store.root, int(size * 1.05), "The cache of this run")
    fill(resolved, store, rows, work, reporter)
    remember(store.root, work.missing_keys, count)
    byte_count = sum(store.path(key).stat().st_size for key in missing)
    report = CacheFilled(
        computed=len(missing),
        reused=reused_count,
        bytes=byte_count,
        seconds=time.monotonic() - start,
        entries=len(missing) + reused_count,
    )
    reporter.event(report)
    return Store(store, work.outputs, work.cached_keys, padded=resolved.family.padded_values), report


def _cut_captions(resolved: Resolved) -> list[str]:
    """A line on captions of which the end is not read, whether or not the cache has them already."""
    spec = resolved.spec
    word = spec.placeholder.word
    units = [unit for unit in spec.units if unit.uses and is_tokenizer(unit.uses[0])]
    marks = [(u.name, u.version, dict(u.constants), spec.fingerprint(u.uses[0], word)) for u in units]
    counter = partial(token_counter, resolved.family, resolved.source, units, spec.placeholder)
    captions = (view.caption for view in (*resolved.own, *resolved.held_out))
    return cut_captions(counter, captions, json.dumps([*marks, word], sort_keys=True, default=str))


def fill_cache_with_fallback(
    resolved: Resolved, fallback: OomFallback, reporter: Reporter
) -> tuple[Store, CacheFilled]:
    """The same as a plan says, and by smaller plans where memory runs out.

    Raises:
        DoesNotFit: No smaller plan is left.
    """

    def act() -> tuple[Store, CacheFilled]:
        return fill_cache(resolved.planned(fallback.plan), reporter)

    return with_smaller_plans("the cache is filled", act, fallback.encode_down, fallback, reporter)


def _discard_damaged(store: Cache, keys: Collection[str], count: int, reporter: Reporter) -> bool:
    """Remove those of the entries that cannot be read, and say so; whether there were any.

    Args:
        store: Where they are.
        keys: Those of this process's share that are there and were not found whole before.
        count: Of all that the run reads.
        reporter: Is told of each.
    """
    damages = {key: store.damage(key) for key in keys}
    remember(store.root, [key for key, reason in damages.items() if not reason], count)
    reasons = {key: reason for key, reason in damages.items() if reason}
    for key, reason in reasons.items():
        reporter.line(f"Cache: computed again: {reason}")
        store.discard(key)
    distributed.barrier()
    return bool(reasons)


def record(resolved: Resolved, run: RunDir, store: Store) -> None:
    """Write what the run is (its recipe), what it reads, and what its images are (for the report)."""
    if distributed.rank() != 0:
        return
    write_text(run.recipe_path, toml.dump(resolved.recipe))
    write_json(
        run.index_path,
        {"views": len(resolved.views), "held_out": len(resolved.held_out), "addresses": store.cache_keys()},
        indent=None,  # of 100,000 images, and then written ten times as fast
    )
    register(store.cache.root, run.path, run.index_path)
    sheet = data_sheet(resolved.folder, resolved.rejected, resolved.own, resolved.held_out)
    pairs = [_pair(item) for item in sample_prompts(resolved) if item.controls]
    sets = sets_sheet(resolved) if resolved.recipe.data.sets else {}
    write_json(run.data_path, {**sheet, **({"pairs": pairs} if pairs else {}), **sets}, indent=None)


def sets_sheet(resolved: Resolved) -> dict[str, object]:
    """What the report says of each of several sets, and of which set each validation image is."""
    data, count = resolved.recipe.data, len(resolved.folders)
    examples = {(view.example.dataset, view.example.sha256) for view in resolved.own}
    counts = Counter(number for number, _ in examples)
    shares = shares_of(resolved.own, count)
    return {
        "sets": [
            {"name": name, "trigger": entry.trigger, "images": counts[number], "share": shares[number]}
            for number, (name, entry) in enumerate(zip(set_names(data), data.folders, strict=True))
        ],
        "held_out_sets": [view.example.dataset for view in resolved.held_out],
        "prompt_sets": [_set_of(text, data.folders) for text in prompts_of(resolved)],
    }


def _set_of(prompt: str, entries: Sequence[DataSet]) -> int | None:
    """The number of the set whose trigger stands in a prompt, of several the longest; None: no set's."""
    numbers = [n for n, entry in enumerate(entries) if entry.trigger and has_word(entry.trigger, prompt)]
    return max(numbers, key=lambda number: len(entries[number].trigger), default=None)


@uncollected()
def data_sheet(
    folder: Folder, rejected: Sequence[Rejected], training_views: Sequence[View], held_out: Sequence[View]
) -> dict[str, object]:
    """What the report says of the images: names, sizes, captions, thumbnails, and what was left out."""
    sizes: dict[str, list[tuple[int, int]]] = {}
    for view in (*held_out, *training_views):
        image_sizes = sizes.setdefault(view.example.sha256, [])
        if view.size not in image_sizes:
            image_sizes.append(view.size)
    only_held = {view.example.sha256 for view in held_out}
    only_held -= {view.example.sha256 for view in training_views}
    return {
        "images": [
            {
                "name": folder.named(entry.path),
                "width": entry.width,
                "height": entry.height,
                "size": list(sizes[entry.sha256][0]) if entry.sha256 in sizes else None,
                "smaller": [list(size) for size in sizes.get(entry.sha256, [])[1:]],
                "captions": list(entry.captions),
                "held_out": entry.sha256 in only_held,
                **(_thumbnails(entry) if number < SHOWN_IMAGES else {}),
            }
            for number, entry in enumerate(folder.examples)
        ],
        "rejected": [{"name": folder.named(entry.path), "reason": entry.reason} for entry in rejected],
    }


def _thumbnails(example: Example) -> dict[str, object]:
    controls = [_thumbnail(control.path) for control in example.controls]
    image = _small(example.path)
    sheet: dict[str, object] = {"thumb": _as_text(image), "controls": controls}
    if example.mask is None:
        return sheet
    mask = example.mask.image()
    share = ImageStat.Stat(mask).mean[0] / 255
    return {**sheet, "mask": _as_text(tinted(image.convert("RGB"), mask)), "mask_share": round(share, 4)}


def _pair(item: SamplePrompt) -> dict[str, object]:
    """What the report shows beside the samples of a prompt: its control images, and what it could become."""
    return {
        "controls": [_thumbnail(control.path) for control in item.controls],
        "target": _thumbnail(item.target.path) if item.target else None,
    }


def _thumbnail(path: Path) -> str:
    return _as_text(_small(path))


def _small(path: Path) -> Image.Image:
    image = read_image(path, at_least=(THUMBNAIL, THUMBNAIL))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _as_text(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
