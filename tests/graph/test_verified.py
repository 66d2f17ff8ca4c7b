"""Which entries of a cache a start may trust without reading them."""

import json
import os
from pathlib import Path

import pytest
import torch

from limner.graph import cache as cache_module
from limner.graph.cache import RECORD, SECOND, Cache, remember


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cache, list[str]]:
    """A cache of four entries, of which two share a folder, that are enough to be recorded."""
    monkeypatch.setattr(cache_module, "MIN_ENTRIES", 4)
    cache = Cache(tmp_path)
    keys = [f"{shard}{number:062x}" for number, shard in enumerate(("aa", "aa", "bb", "cc"))]
    for number, key in enumerate(keys):
        cache.write(key, {"x": torch.full((3,), float(number))})
    return cache, keys


def unverified(cache: Cache, keys: list[str]) -> list[str]:
    return list(cache.hold(keys).suspects)


def test_what_was_found_whole_need_not_be_read_again(store):
    cache, keys = store
    assert unverified(cache, keys) == keys
    remember(cache.root, keys[:3], 4)
    assert unverified(cache, keys) == keys[3:]
    remember(cache.root, keys[3:], 4)
    assert unverified(cache, keys) == []


def test_to_be_used_does_not_make_an_entry_another(store):
    cache, keys = store
    remember(cache.root, keys, 4)
    path = cache.path(keys[0])
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before - 10**12, before - 10**12))
    cache.hold(keys)
    after = path.stat().st_mtime_ns
    assert abs(after - before) < 60 * SECOND
    assert after % SECOND == before % SECOND
    assert unverified(cache, keys) == []
    cache.close()


@pytest.mark.parametrize("fault", ["written anew", "cut short", "gone"])
def test_what_was_altered_is_read(store, fault):
    cache, keys = store
    remember(cache.root, keys, 4)
    path = cache.path(keys[1])
    match fault:
        case "written anew":
            path.write_bytes(path.read_bytes())
        case "cut short":
            stamp = path.stat().st_mtime_ns
            path.write_bytes(path.read_bytes()[:-1])
            os.utime(path, ns=(stamp, stamp))
        case "gone":
            path.unlink()
    assert unverified(cache, keys) == ([] if fault == "gone" else [keys[1]])
    assert (keys[1] in cache.hold(keys).present) == (fault != "gone")
    remember(cache.root, [keys[0]], 4)  # a record that is written again keeps nothing that is not true
    assert set(json.loads((cache.root / "aa" / RECORD).read_text())) == {keys[0]}


def test_few_entries_are_read_each_time(store):
    cache, keys = store
    remember(cache.root, keys[:3], 3)
    assert not list(cache.root.rglob(RECORD))
    assert unverified(cache, keys[:3]) == keys[:3]


def test_whole_seconds_tell_nothing(store):
    cache, keys = store
    second = cache.path(keys[0]).stat().st_mtime_ns // SECOND * SECOND
    os.utime(cache.path(keys[0]), ns=(second, second))
    remember(cache.root, keys, 4)
    assert unverified(cache, keys) == keys[:1]


def test_a_damaged_record_is_no_record(store):
    cache, keys = store
    remember(cache.root, keys, 4)
    (cache.root / "aa" / RECORD).write_text("[")
    (cache.root / "bb" / RECORD).write_text("[]")
    assert unverified(cache, keys) == keys[:3]
