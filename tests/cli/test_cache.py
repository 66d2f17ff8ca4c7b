import json
import os
import time

import pytest

from limner.cli.cache import parse_age
from limner.errors import BadUsage
from limner.files import shared_cache


@pytest.fixture
def entries():
    """Three entries of 1000 bytes in the shared cache, last used now, 20 and 40 days ago."""
    paths = [shared_cache() / "ab" / f"ab{number}.safetensors" for number in range(3)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"__metadata__": {"unit": "latents"}}).encode()
        path.write_bytes((len(header).to_bytes(8, "little") + header).ljust(1000, b" "))
        moment = time.time() - number * 20 * 86400
        os.utime(path, (moment, moment))
    return paths


def test_the_cache_is_listed_without_a_target(limner, entries):
    said = limner("cache", "--list")
    assert f"{shared_cache()}: 3 entries, 3.0 kB, 0 in use now" in said.out
    assert "3 entries  used 0 min ago  latents" in said.out
    assert "3 entries  used 0 min ago  no run on record" in said.out
    value = json.loads(limner("cache", "--list", "--json").out)
    assert (value["entries"], value["bytes"], value["folder"]) == (3, 3000, str(shared_cache()))
    assert value["units"][0] | {"used": 0} == {
        "name": "latents", "entries": 3, "bytes": 3000, "used": 0, "in_use": 0,
    }  # fmt: skip


def test_pruning_alone_deletes_what_no_run_used_for_a_month(limner, entries):
    said = limner("cache", "--prune")
    assert "1 entries deleted (1.0 kB)" in said.out and "Kept: 2 entries, 2.0 kB, 0 of them" in said.out
    assert [path.exists() for path in entries] == [True, True, False]


def test_pruning_by_age_and_by_size(limner, entries):
    said = limner("cache", "--prune", "--older-than", "2w", "--dry-run")
    assert "2 entries would be deleted (2.0 kB)" in said.out
    assert all(path.exists() for path in entries)
    value = json.loads(limner("cache", "--prune", "--max-size", "1kB", "--json").out)
    assert (value["deleted_entries"], value["freed_bytes"], value["remaining_entries"], value["dry_run"]) == (
        2,
        2000,
        1,
        False,
    )
    assert [path.exists() for path in entries] == [True, False, False]


def test_another_cache_is_named_by_a_recipe_or_by_set(limner, entries, photos, tmp_path):
    other = tmp_path / "other"
    for command in (["--set", f"data.cache={other}"], ["photos", "--set", f"data.cache={other}"]):
        assert json.loads(limner("cache", "--list", "--json", *command).out)["folder"] == str(other)
    assert json.loads(limner("cache", "photos", "--list", "--json").out)["folder"] == str(shared_cache())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--list", "--prune"], "two commands"),
        (["--max-size", "1GB"], "--max-size belongs to --prune"),
        (["--list", "--older-than", "3d"], "--older-than belongs to --prune"),
        (["photos", "--dry-run"], "--dry-run belongs to --prune"),
        (["--prune", "--older-than", "soon"], 'Write a number and a unit: "12h", "30d", "8w".'),
        (["--prune", "--max-size", "much"], "is no size"),
        ([], "Name a folder of images, a recipe.toml or a run folder; or --list, or --prune."),
    ],
)
def test_what_means_nothing_is_refused(limner, entries, photos, arguments, error):
    said = limner("cache", *arguments)
    assert said.status == 2 and error in said.err
    assert all(path.exists() for path in entries)


def test_ages():
    assert [parse_age(text) for text in ("90m", "12h", "30d", "1.5w")] == [5400, 43200, 2592000, 907200]
    for text in ("", "30", "d", "-3d", "3 years", "1e3d"):
        with pytest.raises(BadUsage, match="--older-than is"):
            parse_age(text)
