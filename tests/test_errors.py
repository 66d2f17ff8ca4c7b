import pytest

from limner import errors
from limner.errors import first_line

LEAVES = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.LimnerError)]


@pytest.mark.parametrize("leaf", LEAVES)
def test_each_error_says_what_it_is_for(leaf):
    assert leaf.__doc__
    assert str(leaf("rank is 0; try 16")) == "rank is 0; try 16"


def test_wrong_usage_exits_2_and_failure_exits_1():
    codes = {leaf.__name__: leaf.exit_code for leaf in LEAVES}
    assert {name for name, code in codes.items() if code == 2} == {"BadUsage", "BadRecipe", "UnknownBase"}
    assert set(codes.values()) == {1, 2}


def test_the_first_line_of_an_error():
    assert first_line(ValueError("one.\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("x" * 999))) == 200
