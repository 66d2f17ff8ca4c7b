import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from limner.errors import BadCache
from limner.graph.cache import (
    Cache,
    Lease,
    cache_key,
    digest,
    gate,
    held_keys,
    inputs_of,
    key_maker,
    leases_folder,
    text_cache_key,
)
from limner.graph.unit import unit
from messages import raises


@unit("text", uses=("encoder",))
def encode(encoder, tokens, *, length: int = 4):
    return tokens


PLACE = cache_key(encode, {"encoder": "w1"}, {"tokens": text_cache_key("a cat")})
VALUES = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor([1, -2], dtype=torch.int64),
    "c": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "d": torch.tensor(True),
    "e": torch.zeros(0, 4),
}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


def test_an_address_names_all_that_decides_the_value_and_nothing_else():
    weights, inputs = {"encoder": "w1", "vae": "w2"}, {"tokens": "t", "image": "i"}
    here = cache_key(encode, weights, inputs)
    assert here == cache_key(encode, {"encoder": "w1", "vae": "other"}, {"tokens": "t", "image": "other"})
    others = {
        here,
        cache_key(encode, {"encoder": "w3"}, inputs),
        cache_key(encode, weights, {"tokens": "u"}),
        cache_key(replace(encode, version=2), weights, inputs),
        cache_key(encode.bind(length=5), weights, inputs),
        cache_key(replace(encode, name="encode[:2]"), weights, inputs),
    }
    assert len(others) == 6


def test_addresses_last_from_version_to_version():
    """A change here throws every user's cache away: do it on purpose, with FORMAT."""
    text = json.dumps(
        {
            "format": "1", "unit": "encode", "version": encode.version, "constants": dict(encode.constants),
            "weights": {"encoder": 'w"1'}, "inputs": {"tokens": "ä%s"},
        },
        sort_keys=True,
    )  # fmt: skip
    key_of = key_maker(encode, {"encoder": 'w"1', "vae": "other"})
    assert inputs_of(encode) == ["tokens"] and key_of("ä%s") == sha256(text.encode()).hexdigest()
    assert text_cache_key("a cat") == "e9a5831bd677c1cdc405e5f8c98c273dc21923d43f94c1a46a8b3f86fb8f6c4d"
    assert PLACE == "7bdbbee943770ef8bdab140f3df51b92e1f04c603135e07d93ac1ac5693277a9"


def test_the_digest_sees_names_types_shapes_and_bytes():
    one = torch.zeros(4)
    seen = {
        digest({"a": one}), digest({"b": one}), digest({"a": one.int()}), digest({"a": one.view(2, 2)}),
        digest({"a": -one}), digest({"a": one, "b": one}),
    }  # fmt: skip
    assert len(seen) == 6
    assert digest({"a": torch.arange(6).view(2, 3).T}) == digest(
        {"a": torch.arange(6).view(2, 3).T.contiguous()}
    )


def test_what_is_written_is_read(tmp_path: Path):
    cache = Cache(tmp_path)
    assert PLACE not in cache
    size = cache.write(PLACE, VALUES)
    assert PLACE in cache and size == cache.path(PLACE).stat().st_size
    assert same(cache.read(PLACE), VALUES)
    assert cache.damage(PLACE) == ""
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{PLACE}.safetensors"]


def test_views_that_share_memory_can_be_stored(tmp_path: Path):
    whole = torch.arange(8.0)
    Cache(tmp_path).write(PLACE, {"a": whole[:4], "b": whole[2:], "c": whole.view(2, 4).T})
    assert same(Cache(tmp_path).read(PLACE), {"a": whole[:4], "b": whole[2:], "c": whole.view(2, 4).T})


def test_values_read_are_the_readers_own(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.write(PLACE, VALUES)
    cache.read(PLACE)["a"].zero_()
    assert same(cache.read(PLACE), VALUES)


def test_a_missing_entry_is_told(tmp_path: Path):
    with raises(BadCache):
        Cache(tmp_path).read(PLACE)


def test_no_damage_passes(tmp_path: Path):
    """A hundred random cuts, flips and insertions: each is told, none is returned as a value."""
    cache, draw = Cache(tmp_path), random.Random(0)
    cache.write(PLACE, VALUES)
    good = cache.path(PLACE).read_bytes()
    for _ in range(100):
        bad = bytearray(good)
        place = draw.randrange(len(bad))
        match draw.randrange(4):
            case 0:
                del bad[place:]
            case 1:
                bad[place] ^= 1 << draw.randrange(8)
            case 2:
                bad[place:place] = draw.randbytes(draw.randrange(1, 9))
            case 3:
                bad[place : place + 8] = draw.randbytes(8)
        if bytes(bad) == good:
            continue
        cache.path(PLACE).write_bytes(bad)
        try:
            found = cache.read(PLACE)
        except BadCache as error:
            assert "\n" not in str(error).strip() and str(cache.path(PLACE)) in str(error)
        else:  # only what nobody reads may differ, such as a space in the header
            assert same(found, VALUES)


def test_an_entry_under_a_strange_name_is_refused(tmp_path: Path):
    cache, other = Cache(tmp_path), text_cache_key("other")
    cache.write(PLACE, VALUES)
    cache.path(other).parent.mkdir(exist_ok=True)
    cache.path(PLACE).rename(cache.path(other))
    with raises(BadCache):
        cache.read(other)
    assert "not what its name says" in cache.damage(other)
    cache.discard(other)
    cache.discard(other)
    assert other not in cache


def test_another_versions_entry_is_neither_read_nor_replaced(tmp_path: Path):
    cache = Cache(tmp_path)
    path = cache.path(PLACE)
    path.parent.mkdir()
    save_file(VALUES, path, metadata={"address": PLACE, "digest": digest(VALUES), "format": "99"})
    for use in (cache.read, cache.damage):
        with raises(BadCache):
            use(PLACE)


def test_an_entry_says_which_unit_computed_it(tmp_path: Path):
    cache = Cache(tmp_path)
    cache.write(PLACE, VALUES, unit="encode")
    with safe_open(cache.path(PLACE), framework="pt") as file:
        assert file.metadata()["unit"] == "encode"


def test_holding_marks_entries_as_used_and_closing_gives_them_up(tmp_path: Path):
    cache, other = Cache(tmp_path), text_cache_key("other")
    cache.write(PLACE, VALUES)
    os.utime(cache.path(PLACE), (1e9, 1e9))
    cache.hold([PLACE, other])
    assert cache.path(PLACE).stat().st_mtime > 1e9 and not cache.path(other).exists()
    with gate(tmp_path):
        assert held_keys(tmp_path) == {PLACE, other}
    cache.close()
    cache.close()
    with gate(tmp_path):
        assert held_keys(tmp_path) == set()
    assert same(cache.read(PLACE), VALUES)


HOLD = """
import sys
from pathlib import Path
from limner.graph.cache import Lease

lease = Lease(Path(sys.argv[1]))
lease.hold(["a", "b"])
print("held", flush=True)
sys.stdin.read()
"""


def held(root: Path) -> set[str]:
    with gate(root):
        return held_keys(root)


def test_a_lease_lasts_from_hold_to_release(tmp_path):
    lease = Lease(tmp_path)
    assert not leases_folder(tmp_path).exists(), "looking creates nothing"
    lease.hold(["a", "b"])
    lease.hold(["b", "c"])
    other = Lease(tmp_path)
    other.hold(["c", "d"])
    assert held(tmp_path) == {"a", "b", "c", "d"}
    lease.release()
    assert held(tmp_path) == {"c", "d"}
    lease.release()
    lease.hold(["e"])
    assert held(tmp_path) == {"c", "d", "e"}
    lease.release()
    other.release()
    assert [path.name for path in leases_folder(tmp_path).iterdir()] in (["gate.lock"], [])


def test_a_lease_may_be_given_up_in_another_thread(tmp_path):
    lease = Lease(tmp_path)
    lease.hold(["a"])
    thread = threading.Thread(target=lease.release)
    thread.start()
    thread.join()
    assert held(tmp_path) == set()


def test_a_lease_ends_with_its_process_however_that_ends(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert held(tmp_path) == {"a", "b"}
    process.kill()
    process.communicate()
    assert list(leases_folder(tmp_path).glob("*.json")), "a killed process cleans nothing up"
    assert held(tmp_path) == set()
    assert not list(leases_folder(tmp_path).glob("*.json"))


def test_a_run_that_starts_sweeps_out_what_killed_ones_left(tmp_path):
    leases_folder(tmp_path).mkdir()
    dead = leases_folder(tmp_path) / "dead.json"
    dead.write_text(json.dumps({"keys": ["a"]}))
    dead.with_suffix(".lock").touch()
    lease = Lease(tmp_path)
    lease.hold(["b"])
    assert not dead.exists() and held(tmp_path) == {"b"}
    (path,) = leases_folder(tmp_path).glob("*.json")
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lease.release()
