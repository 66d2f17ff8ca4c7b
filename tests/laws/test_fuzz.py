"""A seeded slice of ``benchmarks/robustness/fuzz.py``: nothing damaged crashes, passes or spoils a run."""

import random
import tempfile
from pathlib import Path

import pytest
from benchmarks.robustness.fuzz import BAD, KINDS, Field, can_be_met

CASES = {kind.__name__: list(kind()) for kind in KINDS}


@pytest.fixture(scope="module")
def field(tiny_base):
    with tempfile.TemporaryDirectory(prefix="limner-fuzz-") as root:  # pytest's own is for one user alone
        Path(root).chmod(0o755)
        yield Field(Path(root) / "place", tiny_base)


@pytest.mark.parametrize("kind", CASES)
def test_damage_is_told(field, kind):
    possible = [case for case in CASES[kind] if can_be_met(case)]
    for case in random.Random(f"law {kind}").sample(possible, 3):
        found = field.try_out(case, seed=1)
        assert found.outcome not in BAD, f"{case.name}: {found.outcome}\n{found.said}"


def test_there_are_many_ways():
    cases = [case for kind in CASES.values() for case in kind]
    assert len(cases) >= 200
    assert len({(case.kind, case.name, case.target, case.verb) for case in cases}) == len(cases)
    assert not Path("UNPICKLED").exists()
