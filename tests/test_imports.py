import gc
import re
import tomllib
from pathlib import Path

import pytest

from limner.imports import MANY, imported, keep, swiftly, uncollected


@pytest.fixture
def thawed():
    yield
    gc.unfreeze()


def test_nothing_is_collected_while_importing_and_what_is_left_is_never_looked_through(thawed):
    before = gc.get_freeze_count()
    with pytest.raises(ImportError), swiftly():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() >= before + len(kept)


def test_one_inside_another_leaves_the_outer_one_in_force(thawed):
    with swiftly():
        with swiftly():
            pass
        assert not gc.isenabled()


def test_many_objects_are_made_without_looking_for_garbage_and_kept_for_good(thawed):
    before = gc.get_freeze_count()
    with pytest.raises(OSError), uncollected():
        assert not gc.isenabled()
        raise OSError
    assert gc.isenabled()
    keep(MANY - 1)
    assert gc.get_freeze_count() == before
    keep(MANY)
    assert gc.get_freeze_count() > before


def test_what_a_table_names_is_imported_when_it_is_asked_for():
    assert imported("limner.imports:swiftly") is swiftly
    with pytest.raises(ModuleNotFoundError):
        imported("limner.nowhere:swiftly")


ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    (".".join(path.relative_to(ROOT / "src").with_suffix("").parts), row)
    for path in sorted((ROOT / "src").rglob("*.py"))
    if path.name != "imports.py"  # whose docstring has an example
    for row in re.findall(r'"(limner(?:\.\w+)+:\w+)"', path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("module", "row"), ROWS)
def test_every_row_of_a_table_is_there_and_lies_no_higher_than_the_table(module, row):
    assert imported(row)
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0][
        "layers"
    ]
    heights = {name.strip(): -number for number, line in enumerate(layers) for name in line.split("|")}
    target, table = (heights[".".join(name.split(".")[:2])] for name in (row.partition(":")[0], module))
    assert target < table or row.split(".")[1] == module.split(".")[1]


def test_tables_are_found():
    assert len(ROWS) >= 10
