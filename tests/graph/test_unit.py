from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.errors import BrokenGraph
from limner.graph.unit import Layers, Unit, check, run, split, unit
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


NOWHERE = Layers(below=lambda m, a, until: a, above=lambda m, h, a, since: h)


@unit("tokens", uses=("tokenizer",))
def tokenize(tokenizer: Any, caption: str) -> Any:
    return tokenizer, caption


@unit("text", uses=("encoder",), layers=NOWHERE)
def encode(encoder: Any, tokens: Any) -> Any:
    return encoder, tokens


@unit("mean", uses=("vae",))
def look(vae: Any, image: Any) -> Any:
    return vae, image


@unit("latent")
def sample(mean: Any, draw: Any) -> Any:
    return mean, draw


@unit("size")
def measure(latent: Any) -> Any:
    return latent


@unit("loss", uses=("denoiser",))
def denoise(denoiser: Any, latent: Any, text: Any, size: Any) -> Any:
    return denoiser, latent, text, size


LINE = (tokenize, encode, look, sample, measure, denoise)


def names(units: tuple[Unit, ...]) -> list[str]:
    return [each.name for each in units]


def test_a_denoiser_alone():
    cut = split(LINE, {"denoiser": 0})
    assert names(cut.frozen) == ["tokenize", "encode", "look"]
    assert names(cut.live) == ["sample", "measure", "denoise"]
    assert cut.boundary == {"mean", "text"}
    assert cut.loaded == ("denoiser",)


def test_training_the_text_encoder_moves_the_cut():
    cut = split(LINE, {"denoiser": 0, "encoder": 0})
    assert names(cut.live) == ["encode", "sample", "measure", "denoise"]
    assert cut.boundary == {"tokens", "mean"}
    assert cut.loaded == ("encoder", "denoiser")


def test_the_lower_layers_of_a_partly_trained_encoder_stay_frozen():
    cut = split(LINE, {"denoiser": 0, "encoder": 2})
    assert names(cut.frozen) == ["tokenize", "encode[:2]", "look"]
    assert names(cut.live) == ["encode[2:]", "sample", "measure", "denoise"]
    assert cut.boundary == {"encode@2", "tokens", "mean"}


def test_layers_above_something_live_are_live_although_only_they_are_trained():
    cut = split(LINE, {"denoiser": 0, "tokenizer": 0, "encoder": 2})
    assert names(cut.live) == ["tokenize", "encode[:2]", "encode[2:]", "sample", "measure", "denoise"]
    assert cut.boundary == {"caption", "mean"}


def test_nothing_trained_leaves_only_what_draws():
    cut = split(LINE, {})
    assert names(cut.live) == ["sample", "measure", "denoise"]
    assert cut.loaded == ("denoiser",)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Unit], dict[str, int]]:
    units, known = [], ["i0", "i1"]
    for number in range(draw(st.integers(1, 8))):
        reads = tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True)))
        uses = tuple(draw(st.lists(st.sampled_from(["m0", "m1", "m2"]), max_size=2, unique=True)))
        draws = draw(st.booleans()) and draw(st.booleans())
        writes = tuple(f"v{number}{letter}" for letter in "ab"[: draw(st.integers(1, 2))])
        function = _mix(number, len(writes))
        units.append(
            Unit(
                name=f"u{number}",
                function=function,
                uses=uses,
                reads=reads,
                writes=writes,
                draws=draws,
                version=1,
            )  # fmt: skip
        )
        known += writes
    return units, dict.fromkeys(draw(st.sets(st.sampled_from(["m0", "m1", "m2"]))), 0)


def _mix(number: int, count: int) -> Any:
    def function(*arguments: int, draw: int = 0) -> Any:
        seen = hash((number, arguments, draw))
        return tuple(hash((seen, place)) for place in range(count)) if count > 1 else seen

    return function


@given(graphs())
def test_what_is_computed_once_cannot_be_told_from_what_is_computed_anew(graph):
    """For any graph: frozen once, then live many times, equals everything every time, while models move."""
    units, trained = graph
    cut = split(units, trained)
    assert sorted(names(cut.frozen) + names(cut.live)) == sorted(names(tuple(units)))
    inputs = {"i0": 1, "i1": 2}
    models = {"m0": 10, "m1": 20, "m2": 30}
    stored = run(cut.frozen, models, inputs)
    boundary = {name: stored[name] for name in cut.boundary}
    for step in range(3):
        moved = {name: value + step * (name in trained) for name, value in models.items()}
        whole = run(units, moved, inputs, draw=step)
        live = run(cut.live, {name: moved[name] for name in cut.loaded}, boundary, draw=step)
        assert all(live[name] == whole[name] for each in cut.live for name in each.writes)
    assert not any(each.draws or set(each.uses) & set(trained) for each in cut.frozen)
