import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

import limner
from drafts import DEAD, draft_of
from limner.files import user_cache
from limner.graph import contents as module
from limner.graph.cache import Cache, register, text_cache_key
from limner.graph.contents import NO_RUN, OTHER, PruneReport, contents, prune

DAY = 86400.0
KEYS = [text_cache_key(str(number)) for number in range(5)]


@pytest.fixture
def cache(tmp_path) -> Cache:
    """Five entries, last used 0, 10, 20, 30 and 40 days ago; the first two by unit "latents"."""
    cache, now = Cache(tmp_path / "cache"), time.time()
    for number, key in enumerate(KEYS):
        cache.write(key, {"x": torch.zeros(1000)}, unit="latents" if number < 2 else "text")
        moment = now - number * 10 * DAY
        os.utime(cache.path(key), (moment, moment))
    return cache


def there(cache: Cache) -> list[int]:
    return [number for number, key in enumerate(KEYS) if key in cache]


def size(cache: Cache) -> int:
    return cache.path(KEYS[0]).stat().st_size


def run(folder: Path, cache: Cache, keys: list[str]) -> Path:
    index = folder / "cache" / "index.json"
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps({"addresses": keys}))
    register(cache.root, folder, index)
    return index


def test_entries_that_were_not_used_lately_go(cache):
    assert prune(cache.root, older_than=25 * DAY).deleted_entries == 2
    assert there(cache) == [0, 1, 2]


def test_the_longest_unused_go_until_the_rest_is_small_enough(cache):
    one = sum(path.stat().st_size for path in cache.root.glob("??/*")) / 5
    done = prune(cache.root, max_size=int(2.5 * one))
    assert there(cache) == [0, 1] and (done.deleted_entries, done.remaining_entries) == (3, 2)
    assert done.remaining_bytes == sum(path.stat().st_size for path in cache.root.glob("??/*")) <= 2.5 * one


def test_a_size_that_is_kept_deletes_nothing(cache):
    assert prune(cache.root, max_size=10**9).deleted_entries == 0 and there(cache) == [0, 1, 2, 3, 4]


def test_age_and_size_together(cache):
    done = prune(cache.root, older_than=35 * DAY, max_size=10**9)
    assert there(cache) == [0, 1, 2, 3] and done.freed_bytes > 4000
    prune(cache.root, older_than=35 * DAY, max_size=int(1.5 * size(cache)))
    assert there(cache) == [0]


def test_a_dry_run_counts_the_same_and_deletes_nothing(cache):
    would = prune(cache.root, older_than=15 * DAY, dry_run=True)
    assert there(cache) == [0, 1, 2, 3, 4]
    did = prune(cache.root, older_than=15 * DAY)
    assert would == PruneReport(**{**vars(did), "dry_run": True}) and did.deleted_entries == 3


def test_what_a_process_holds_stays_and_counts(cache):
    reader = Cache(cache.root)
    reader.hold([KEYS[3]])
    os.utime(cache.path(KEYS[3]), (0, 0))
    done = prune(cache.root, older_than=15 * DAY, max_size=1)
    assert there(cache) == [3] and (done.in_use, done.remaining_bytes) == (
        1,
        cache.path(KEYS[3]).stat().st_size,
    )
    reader.close()
    assert prune(cache.root, max_size=1).deleted_entries == 1


def test_a_run_that_starts_between_two_batches_keeps_its_entries(cache, monkeypatch):
    """It holds an entry that is already chosen; and another has been used since, and is no longer old."""
    monkeypatch.setattr(module, "BATCH", 1)
    reader, true = Cache(cache.root), module.gate
    gates = []

    def gate(root):
        gates.append(root)
        if len(gates) == 2:  # the first batch, entry 4, is gone
            reader.hold([KEYS[3]])
            os.utime(cache.path(KEYS[3]), (0, 0))
            os.utime(cache.path(KEYS[2]))
        return true(root)

    monkeypatch.setattr(module, "gate", gate)
    done = prune(cache.root, older_than=15 * DAY)
    assert there(cache) == [0, 1, 2, 3] and (done.deleted_entries, done.remaining_entries) == (1, 4)
    reader.close()


def test_drafts_of_killed_processes_go_and_young_ones_stay(cache):
    path = cache.path(KEYS[0])
    old, young = draft_of(path, pid=DEAD), draft_of(path, pid=os.getpid())
    for draft in (old, young):
        draft.parent.mkdir()
        draft.write_bytes(b"half")
    (cache.root / "README").write_text("a stranger's file")
    done = prune(cache.root, older_than=100 * DAY)
    assert (done.drafts, done.freed_bytes, done.deleted_entries) == (1, 4, 0)
    assert young.exists() and not old.exists() and (cache.root / "README").exists()


def test_a_cache_is_listed_by_run_and_by_unit(cache, tmp_path):
    run(tmp_path / "one", cache, [KEYS[1], KEYS[2]])
    run(tmp_path / "two", cache, [KEYS[0], KEYS[1], "0" * 64])
    reader = Cache(cache.root)
    reader.hold([KEYS[4]])
    found = contents(cache.root)
    reader.close()
    assert (found.entries, found.in_use) == (5, 1)
    assert found.bytes == sum(path.stat().st_size for path in cache.root.glob("??/*"))
    assert [(group.name, group.entries, group.in_use) for group in found.runs] == [
        (str(tmp_path / "two"), 2, 0),
        (str(tmp_path / "one"), 2, 0),
        (NO_RUN, 2, 1),
    ]
    assert {group.name: group.entries for group in found.units} == {"text": 3, "latents": 2}


def test_an_entry_of_an_earlier_version_is_named_by_its_tensors_and_a_damaged_one_so(cache):
    cache.write(KEYS[0], {"b": torch.zeros(1), "a": torch.zeros(1)})
    cache.path(KEYS[1]).write_bytes(b"\xff" * 40)
    assert {group.name: group.entries for group in contents(cache.root).units} == {
        "a+b": 1, "damaged": 1, "text": 3,
    }  # fmt: skip


def test_records_of_runs_that_are_gone_go(cache, tmp_path):
    kept, lost = (run(tmp_path / name, cache, KEYS[:1]) for name in ("kept", "lost"))
    lost.unlink()
    (cache.root / "runs" / "torn.json").write_text("{")
    assert [group.name for group in contents(cache.root).runs] == [str(tmp_path / "kept"), NO_RUN]
    prune(cache.root, older_than=100 * DAY)
    (record,) = (cache.root / "runs").iterdir()
    assert json.loads(record.read_text())["index"] == str(kept)


def test_looking_at_a_cache_that_is_not_there_creates_nothing(tmp_path):
    found = contents(tmp_path / "none")
    assert (found.entries, found.bytes, found.runs, found.units) == (0, 0, [], [])
    assert prune(tmp_path / "none", max_size=1).deleted_entries == 0
    assert not (tmp_path / "none").exists()


def test_every_folder_in_the_users_cache_is_listed():
    source = Path(limner.__file__).parent
    used = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r'user_cache\("(\w+)"\)', path.read_text())
    }
    assert used - {"cache"} == set(OTHER)
    for name in ("bases", "devices"):  # profiles are the tests' own, shared by all
        (user_cache(name) / "x").mkdir(parents=True)
        (user_cache(name) / "x" / "file").write_bytes(b"12345")
    found = contents(user_cache("cache")).other
    sizes = [(each.name, each.files, each.bytes) for each in found if each.name != "profiles"]
    assert sizes == [("bases", 1, 5), ("devices", 1, 5)]
