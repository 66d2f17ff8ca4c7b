import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from cases import CASES, Case
from limner.assembly.resolve import Resolved, resolve
from limner.graph.cache import Cache
from limner.nn.arch import bytes_of, lists
from limner.nn.memory.engine import TILE_SIDE
from limner.nn.memory.plan import Plan
from limner.training import encoders
from limner.training.cache import all_rows
from limner.training.encode import fill, survey
from limner.training.encoders import ROOM, THREADS, BackgroundPool, opened, uncached, whole
from small import Told, equal, wish
from waiting import LONGEST

WORDS = ("a cat", "many words, " * 9)


@pytest.fixture
def resolved(tiny_base, photos) -> Resolved:
    return resolve(wish(tiny_base, photos, data={"validation_count": 0}))


@pytest.fixture
def equipped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The engines that were put on encoders, and which layers they stream."""
    seen: list[Any] = []
    true = encoders.equip

    def equip(model: Any, arch: Any, plan: Any, **how: Any) -> Any:
        engine = true(model, arch, plan, **how)
        seen.append((arch.blocks, range(plan.swapped_blocks), engine))
        return engine

    monkeypatch.setattr(encoders, "equip", equip)
    return seen


@pytest.mark.parametrize("in_files", [False, True])
def test_a_streamed_cache_is_that_of_whole_encoders(resolved, tmp_path, equipped, in_files):
    """To the bit, and under the same addresses."""
    streamed = replace(resolved, encode_streamed=True, encode_mapped=in_files)
    cache, rows = Cache(tmp_path), all_rows(resolved)
    work = survey(streamed, cache, rows)
    assert list(work.table) == list(survey(resolved, cache, rows).table)
    fill(streamed, cache, rows, work, Told())
    for row, places, straight in zip(rows, work.table, uncached(resolved, rows), strict=True):
        assert equal(straight, {name: cache.read(places[name])[name] for name in row.outputs})
    assert [blocks for blocks, *_ in equipped] == [("encoder.layers.*",), ("encoder.block.*",)]
    for _, layers, engine in equipped:
        captions = len({row.inputs["caption"] for row in rows})
        assert engine.swapper is not None and engine.swapper.stats.copies >= captions * (len(layers) - 2)
        assert (engine.swapper.copy_stream.worker is not None) == in_files


@pytest.mark.parametrize(
    "case",
    [each for each in CASES if each.name != "sdxl-v" and not each.controls],  # which have FLUX.1's encoders
    ids=lambda each: each.name,
)
def test_every_family_s_encoders_can_be_streamed(case: Case, tmp_path, photos, equipped, monkeypatch):
    monkeypatch.setattr(encoders, "heaviest", largest)  # the embeddings of a tiny one outweigh its layers
    resolved = resolve(wish(case.save(tmp_path / case.name), photos, data={"validation_count": 0}))
    streamed = replace(resolved, encode_streamed=True)
    texts = [unit for unit in resolved.cut.frozen if "image" not in unit.reads and unit.uses]
    with torch.no_grad():
        for caption in WORDS:
            values: list[dict[str, Any]] = [{"caption": (caption,)}, {"caption": (caption,)}]
            for unit in texts:
                with _all(resolved, unit.uses) as one, _all(streamed, unit.uses) as other:
                    values[0] |= unit.run(one, values[0])
                    values[1] |= unit.run(other, values[1])
            made = [{name: v for name, v in each.items() if torch.is_tensor(v)} for each in values]
            assert equal(*made) and made[0]
    assert equipped, "none was made of layers"


def largest(model: torch.nn.Module) -> str:
    found = lists(model)
    return max(found, key=lambda name: bytes_of(found[name].parameters()))


@contextmanager
def _all(resolved: Resolved, parts: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        yield {part: stack.enter_context(opened(resolved, part)) for part in parts}


def test_what_is_trained_or_has_no_layers_is_whole(tiny_base, photos, equipped):
    plain = resolve(
        wish(tiny_base, photos, data={"validation_count": 0}, lora={"text_encoders": ["text_encoder"]})
    )
    resolved = replace(plain, encode_streamed=True)
    for part in ("text_encoder", "tokenizer", "vae"):
        with opened(resolved, part) as model:
            assert type(model) is type(whole(plain, part))
    assert not equipped


def test_an_error_leaves_no_engine_behind(resolved, equipped):
    streamed = replace(resolved, encode_streamed=True)
    with pytest.raises(RuntimeError, match="stop"), opened(streamed, "text_encoder"):
        raise RuntimeError("stop")
    ((_, _, engine),) = equipped
    assert not engine.swapper.slots


def test_tiles_and_streams_are_the_plan_s(resolved):
    tiled = resolved.planned(Plan(encode_tiled=True))
    assert resolved.planned(Plan(encode_streamed=True)) == replace(resolved, encode_streamed=True)
    assert resolved.planned(Plan(encode_mapped=True)) == replace(resolved, encode_mapped=True)
    assert not whole(resolved, "vae").use_tiling
    vae = whole(tiled, "vae")
    assert vae.use_tiling and vae.tile_sample_min_size == TILE_SIDE


def test_what_is_made_ahead_comes_in_order_and_not_all_at_once():
    begun = []

    def make(item: int) -> int:
        begun.append(item)
        time.sleep(0.01 * (item % 3))
        return item * item

    with BackgroundPool(lambda _: None) as beside:
        made = beside.ahead(make, range(100))
        first = next(made)
        assert len(begun) <= ROOM + 1
        assert [first, *made] == [n * n for n in range(100)]


def test_what_is_left_behind_is_done_elsewhere_and_told_here():
    here, told, places = threading.get_ident(), [], []

    def work(item: int, more: int) -> int:
        places.append(threading.get_ident())
        return item + more

    with BackgroundPool(lambda value: told.append((value, threading.get_ident()))) as beside:
        for item in range(3 * ROOM):
            beside.behind(work, item, 1)
            assert item + 1 - len(told) <= ROOM
        beside.settle()
        assert told == [(item + 1, here) for item in range(3 * ROOM)]
        beside.behind(work, 7, 0)
    assert told[-1] == (7, here)
    assert here not in places


def test_a_failure_in_a_thread_is_raised_in_the_caller():
    def fail(item: int) -> int:
        raise OSError(f"no room for {item}")

    with pytest.raises(OSError, match="no room for 1"), BackgroundPool(lambda _: None) as beside:
        list(beside.ahead(fail, [1]))
    with pytest.raises(OSError, match="no room for 2"), BackgroundPool(lambda _: None) as beside:
        beside.behind(fail, 2)


def test_after_an_error_what_has_not_begun_is_dropped():
    done, dropped = [], threading.Event()

    def slow(item: int) -> None:
        dropped.wait(LONGEST)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), BackgroundPool(lambda _: None) as beside:
        for item in range(ROOM):
            beside.behind(slow, item)
        beside._pending[-1].add_done_callback(lambda _: dropped.set())
        raise KeyboardInterrupt
    assert len(done) <= THREADS
