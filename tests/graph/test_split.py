from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from limner.graph.split import split
from limner.graph.unit import Layers, Unit, run, unit

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
