from functools import partial
from typing import Any

import pytest

from limner.errors import BrokenGraph
from limner.graph.unit import Layers, Unit, check, run, unit
from messages import raises


@unit("b", uses=("model",), version=3)
def add(model: int, a: int, *, offset: int, scale: int = 1) -> int:
    return (a + model + offset) * scale


@unit("low", "high")
def spread(b: int, draw: Any) -> tuple[int, int]:
    return b - draw, b + draw


def test_the_signature_is_the_declaration():
    assert (add.name, add.uses, add.reads, add.writes) == ("add", ("model",), ("a",), ("b",))
    assert (add.draws, add.version, add.needs, dict(add.constants)) == (False, 3, ("offset",), {"scale": 1})
    assert (spread.reads, spread.writes, spread.draws) == (("b",), ("low", "high"), True)


def test_models_come_first():
    with raises(BrokenGraph):
        unit("b", uses=("model",))(lambda a, model: a)


def test_binding_gives_a_unit_its_constants_and_passes_over_those_of_others():
    bound = add.bind(offset=10, shift=7)
    assert bound.run({"model": 5}, {"a": 1, "z": 0}) == {"b": 16}
    assert add.bind(offset=10, scale=2).bind(offset=0).run({"model": 5}, {"a": 1}) == {"b": 12}
    assert "offset" in add.needs, "binding must not change the unit itself"


def test_running_unbound_is_refused():
    with raises(BrokenGraph):
        add.run({"model": 5}, {"a": 1})


def test_a_unit_that_writes_less_than_it_says_is_refused():
    with pytest.raises(ValueError, match="zip"):
        unit("b", "c")(lambda a: (a,)).run({}, {"a": 1})


def test_running_units_in_order_with_a_draw():
    values = run([add.bind(offset=0), spread], {"model": 1}, {"a": 2}, draw=10)
    assert values == {"a": 2, "b": 3, "low": -7, "high": 13}


def test_a_given_value_stands_in_for_the_unit_that_would_write_it():
    given = {"b": 100}
    assert run([add, spread], {}, given, draw=1) == {"b": 100, "low": 99, "high": 101}
    assert given == {"b": 100}
    assert run([spread], {}, {"b": 0, "low": 42}, draw=1) == {"b": 0, "low": 42, "high": 1}


def test_check_names_what_is_missing_and_what_is_written_twice():
    check([add, spread], inputs=["a"])
    with raises(BrokenGraph):
        check([spread], inputs=["a"])
    with raises(BrokenGraph):
        check([add, add], inputs=["a"])


LAYERS = [2, 3, 5]


def below(model: list[int], x: int, *, until: int) -> int:
    for factor in model[:until]:
        x *= factor
    return x


def above(model: list[int], hidden: int, x: int, *, since: int) -> tuple[int, int]:
    for factor in model[since:]:
        hidden *= factor
    return hidden, x


def whole(model: list[int], x: int) -> tuple[int, int]:
    return above(model, x, x, since=0)


TOWER = unit("y", "x2", uses=("model",), layers=Layers(below=below, above=above))(whole)


@pytest.mark.parametrize("layer", range(4))
def test_a_cut_unit_equals_the_whole_one(layer: int):
    first, second = TOWER.cut(layer)
    assert first.writes == (f"whole@{layer}",) == (second.reads[0],)
    assert second.reads[1:] == TOWER.reads
    assert first.spares == ("model",) and second.spares == ()
    assert len({first.name, second.name, TOWER.name}) == 3
    assert run([first, second], {"model": LAYERS}, {"x": 7})["y"] == 210
    assert isinstance(first.function, partial)


def test_only_one_model_made_of_layers_can_be_cut():
    with raises(BrokenGraph):
        add.cut(2)
    two = Unit(
        name="two", function=whole, uses=("a", "b"), reads=("x",), writes=("y",), draws=False, version=1,
        layers=TOWER.layers,
    )  # fmt: skip
    with raises(BrokenGraph):
        two.cut(1)
