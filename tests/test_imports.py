import gc

import pytest

from limner.imports import imported, swiftly


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


def test_what_a_table_names_is_imported_when_it_is_asked_for():
    assert imported("limner.imports:swiftly") is swiftly
    with pytest.raises(ModuleNotFoundError):
        imported("limner.nowhere:swiftly")
