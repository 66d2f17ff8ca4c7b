"""Blind votes: the same pairs at every call, kept in the run folder, with an interval."""

from pathlib import Path

import pytest

from limner.run_folder import RunDir
from limner.studio.votes import add_vote, cells_of, images_of, pairs, read_votes, wilson

FIRST, SECOND = (100, 0.8), (0, 0.0)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "cat")
    for (step, strength), seeds in ((FIRST, 6), (SECOND, 5)):
        folder = run.judge_images_path / f"step-{step:06d}"
        folder.mkdir(parents=True)
        for seed in range(seeds):
            (folder / f"a-cat-strength{strength:g}-seed{seed}-0123456789ab.png").write_bytes(b"x")
    (run.judge_images_path / "step-000100" / "a-cat-strength1-seed0-0123456789ab.png").write_bytes(b"x")
    return run


def test_images_of_a_cell_are_those_of_its_step_and_strength(run: RunDir) -> None:
    assert sorted(images_of(run, FIRST)) == [f"a-cat {seed}" for seed in range(6)]
    assert list(images_of(run, (100, 1.0))) == ["a-cat 0"]
    assert images_of(run, (200, 1.0)) == {}


def test_pairs_are_of_one_seed_and_the_sides_are_mixed(run: RunDir) -> None:
    found = pairs(run, FIRST, SECOND)
    assert found == pairs(run, FIRST, SECOND) and len(found) == 5
    assert {pair.swapped for pair in found} == {True, False}
    for pair in found:
        assert ("step-000000" in str(pair.left)) == pair.swapped
        assert pair.left.name.split("seed")[1] == pair.right.name.split("seed")[1]


def test_votes_are_kept_by_pair_of_cells(run: RunDir) -> None:
    add_vote(run, FIRST, SECOND, "a-cat 0", for_first=True)
    add_vote(run, FIRST, SECOND, "a-cat 1", for_first=False)
    add_vote(run, SECOND, FIRST, "a-cat 0", for_first=False)
    assert read_votes(run, FIRST, SECOND) == {"a-cat 0": True, "a-cat 1": False}
    assert read_votes(run, SECOND, FIRST) == {"a-cat 0": False}


@pytest.mark.parametrize(
    ("wins", "count", "interval"),
    [(5, 10, (0.2366, 0.7634)), (10, 10, (0.7225, 1.0)), (0, 1, (0.0, 0.7935))],
)
def test_the_interval_is_wilsons(wins: int, count: int, interval: tuple[float, float]) -> None:
    assert wilson(wins, count) == pytest.approx(interval, abs=1e-4)


def test_cells_are_read_and_a_record_without_has_none() -> None:
    record = {"cells": [{"step": 0, "strength": 0}, {"step": 100, "strength": 0.8}]}
    assert cells_of(record) == [(0, 0.0), (100, 0.8)]
    assert cells_of({}) == []
