"""Two machines = one: network namespaces with a cable between them, hostnames and folders of their own.

Only the first process writes the run; each machine fills its own cache; where the cable is pulled both end in
a line, and the run goes on, to the bit, as that of one process. What else two machines may share or lose is
tried by ``benchmarks/robustness/machines.py``, which makes the machines.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.robustness.machines import Machines, NoSpaces, disturbed, finish, namespaces
from benchmarks.robustness.processes import difference

import impatient
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.runs import train
from waiting import LONGEST

STEPS = 40
BOUND = 40.0
"""Seconds that both may take to end: 6 until the system gives the other up, and what torchrun takes."""


@pytest.fixture
def spaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, a veth pair between them."""
    try:
        with namespaces() as names:
            yield names
    except NoSpaces as error:
        pytest.skip(str(error))


def wish(base: Path, photos: Path, steps: int) -> Recipe:
    return Recipe.model_validate(
        {
            "base": str(base),
            "data": {"images": str(photos), "flip": True, "caption_dropout": 0.3, "trigger": "zorb"},
            "lora": {"rank": 3, "dropout": 0.1},
            "train": {"steps": steps, "batch": 4, "save_every": 3, "ema": 0.9, "schedule": "constant"},
            "sample": {"every": -1},
            "limits": {"micro_batch": 2, "device": "cpu"},
        }
    )


@pytest.mark.slow  # two machines that load torch twice
def test_two_machines_are_one_and_outlive_a_pulled_cable(spaces, tiny_base, photos, tmp_path, known_profiles):
    recipe = wish(tiny_base, photos, STEPS)
    train(recipe, tmp_path / "one", Reporter())
    machines = Machines(tmp_path, spaces, program=(impatient.__file__,))
    for home in machines.homes:
        (home / "limner/profiles").symlink_to(known_profiles)
    ends = disturbed(machines, recipe, machines.pull_cable, wait=LONGEST)
    for (seconds, lines), other in zip(
        ends, ("Process 1 on machine-1", "Process 0 on machine-0"), strict=True
    ):
        assert seconds < BOUND and len(lines) == 1, lines
        assert f"{other} of this run has ended or cannot be reached" in lines[0]
    assert machines.run(0).checkpoints() and not machines.run(1).path.exists()

    machines.pull_cable(up=True)
    finish(machines, recipe)
    assert not machines.run(1).path.exists(), "only the first process writes the run"
    assert machines.cache_keys(0) == machines.cache_keys(1) != set()
    assert difference(tmp_path / "one", machines.run(0).path) == 0.0
