"""Law: whatever the engine does, loss and gradients are those of the plain model, to the bit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cases import CASES
from equipping import equip
from limner.errors import BadRecipe
from limner.nn.arch import frozen, matching
from limner.nn.layers import lora
from limner.nn.layers.quantized_linear import freeze
from limner.nn.rng import Places
from messages import raises
from tinybase import DEVICE, PLACES, Base

Values = dict[str, Tensor]


class Subject:
    """A tiny base with an adapter, micro-batches of two shapes, and what the plain model makes of them."""

    def __init__(self, base: Base, model: nn.Module | None = None, places: Places | None = None) -> None:
        self.places: Places = [] if places is None else places
        self.base, self.model = base, model or base.moved()
        for parameter in self.model.parameters():
            parameter.data = (
                parameter.data.clone()
            )  # a file's bytes lie askew, and kernels then sum otherwise
        self.arch = base.family.arch
        self.count = len(self.arch.blocks_of(self.model))
        wide = base.batch(0, 1)
        self.micros = [(wide, PLACES), (_narrow(base.batch(1)), PLACES[1:])]
        self.plain = self.step()

    def step(self) -> dict[str, Tensor]:
        """Losses and gradients of two micro-batches of different shape, accumulated."""
        for parameter in lora.trained(self.model):
            parameter.grad = None
        made: dict[str, Tensor] = {}
        for number, (values, places) in enumerate(self.micros):
            self.places[:] = places
            loss = self.base.live(self.model, values, places)["loss"]
            loss.mean().backward()
            made[f"loss {number}"] = loss.detach()
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.requires_grad}
        return made | {name: grad for name, grad in gradients.items() if grad is not None}

    def holds(self, **plan: Any) -> bool:
        """Whether a plan changes nothing; run twice, because what one step leaves must not harm the next."""
        engine = equip(self.model, self.arch, device=DEVICE, **plan)
        try:
            same = [_equal(self.plain, self.step()) for _ in range(2)]
        finally:
            engine.close()
        return all(same)


def _narrow(values: Values) -> Values:
    """The same with an image half as wide."""
    return {n: v[..., : v.shape[-1] // 2] if n.startswith("latent") else v for n, v in values.items()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=[c for c in CASES if c.name != "sdxl-v"], ids=lambda case: case.name)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(Base(request.param, tmp_path_factory.mktemp("bases") / request.param.name))


@pytest.fixture
def unwritten_numbers_are_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


def test_the_plain_step_moves_most_factors_and_repeats_itself(subject: Subject) -> None:
    trained = [name for name, p in subject.model.named_parameters() if p.requires_grad]
    assert len(subject.plain) - 2 >= subject.base.case.alive * len(trained)
    assert _equal(subject.plain, subject.step())


@pytest.mark.usefixtures("unwritten_numbers_are_nan")
@pytest.mark.parametrize(
    ("share", "keep_attention", "tail_skip"), [(0.5, True, True), (1.0, False, True), (1.0, True, False)]
)
def test_checkpointed_blocks(
    subject: Subject, share: float, *, keep_attention: bool, tail_skip: bool
) -> None:
    checkpointed = int(share * subject.count)
    assert subject.holds(checkpointed=checkpointed, keep_attention=keep_attention, tail_skip=tail_skip)


class Rows:
    """Stands between a tail and its product, and counts the rows asked for."""

    def __init__(self, tail: Any) -> None:
        self.run, self.asked = tail.run, []
        tail.run = self

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x.shape[-2])
        return self.run(x)


def _asked(subject: Subject, patterns: tuple[str, ...]) -> dict[str, list[int]]:
    """Rows of the products that the linear layers named so were asked for, in a checkpointed step."""
    arch = replace(subject.arch, tails=patterns)
    engine = equip(subject.model, arch, device=DEVICE, checkpointed=subject.count)
    subject.step()  # on a GPU it also learns which kernel of attention is the fastest
    named = matching(subject.model, patterns)
    rows = {name: Rows(vars(frozen(layer))["forward"]) for name, layer in named.items()}
    assert _equal(subject.plain, subject.step())
    engine.close()
    return {name: each.asked for name, each in rows.items()}


def test_the_tails_that_a_family_names_are_left_out(subject: Subject) -> None:
    for asked in _asked(subject, subject.arch.tails).values():
        (first, again), (other, other_again) = asked[:2], asked[2:]
        assert first and other and again == other_again == 0


def test_where_a_norm_reads_the_last_product_there_are_no_tails(subject: Subject) -> None:
    if subject.base.family.name not in ("ideogram4", "z-image"):
        assert subject.arch.tails
        return
    assert not subject.arch.tails
    for asked in _asked(subject, ("*.*.feed_forward.w2",)).values():
        assert asked[0] == asked[1] > 0, "named all the same, it is found to be read, and computed"


def test_what_a_block_reads_in_its_middle_is_never_left_out(subject: Subject) -> None:
    middle = {"z-image": "*.*.attention.to_out.0", "sdxl": "*.*.*.*.*.*.attn2.to_out.0"}
    middle["ideogram4"] = middle["z-image"]
    middle["hidream"] = "*.*.block.attn1.to_out"
    middle["anima"] = "transformer_blocks.*.attn2.to_out.0"
    middle["sd15"], middle["flux2"] = middle["sdxl"], "transformer_blocks.*.attn.to_out.0"
    pattern = middle.get(subject.base.family.name, "transformer_blocks.*.attn.to_out.0")
    found = _asked(subject, (pattern,))
    assert found and all(asked[0] == asked[1] > 0 for asked in found.values())


@pytest.mark.parametrize(("checkpointed", "slots", "hoist"), [(0, 2, False), (0.5, 3, True), (1, 2, True)])
def test_streamed_blocks(subject: Subject, checkpointed: float, slots: int, *, hoist: bool) -> None:
    first = int(checkpointed * subject.count)
    assert subject.holds(streamed=range(subject.count), slots=slots, checkpointed=first, hoist=hoist)
    assert subject.holds(streamed=range(0, subject.count, 2), slots=slots, checkpointed=first, hoist=hoist)


def test_weights_that_stay_on_disk(subject: Subject, tmp_path: Path) -> None:
    every = range(subject.count)
    assert subject.holds(streamed=every, checkpointed=2, mapped=True, folder=tmp_path, hoist=True)
    assert not list(tmp_path.iterdir())


def test_hoisted_modulations(subject: Subject) -> None:
    assert subject.holds(hoist=True)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_plan_at_all(subject: Subject, data: st.DataObject) -> None:
    plan = data.draw(
        st.fixed_dictionaries(
            {
                "checkpointed": st.integers(0, subject.count),
                "streamed": st.sets(st.integers(0, subject.count - 1)).map(sorted),
                "slots": st.integers(2, 4),
                **dict.fromkeys(("tail_skip", "keep_attention", "mapped", "hoist"), st.booleans()),
            }
        )
    )
    assert subject.holds(**plan)


def test_quantised_layers_and_dropout(subject: Subject) -> None:
    base = subject.base
    model = base.load(base.family.denoiser)
    blocks = subject.arch.blocks_of(model)
    linear = [f"{b}.{n}" for b in blocks for n, m in blocks[b].named_modules() if isinstance(m, nn.Linear)]
    freeze(model, linear, "int8")
    placed: Places = []
    names = lora.matching(model, base.family.endings(base.family.denoiser, "auto"))
    lora.attach(model, names, rank=2, alpha=1, dropout=0.3, seed=1, places=placed)
    for number, factor in enumerate(lora.trained(model)):
        nn.init.normal_(factor, std=0.1, generator=torch.Generator().manual_seed(number))
    lora.dropping(model, enabled=True)
    dropped = Subject(base, model, placed)
    assert dropped.holds(checkpointed=subject.count, streamed=range(subject.count), hoist=True)
    assert dropped.holds(checkpointed=2, streamed=range(1, subject.count), keep_attention=True)


def test_where_a_text_encoder_is_trained_its_gradient_is_the_same_and_modulations_stay(
    subject: Subject,
) -> None:
    """What the conditions read then needs a gradient, so gates do, so tails are read: it is found out."""
    values, places = subject.micros[0]
    read = next((name for name in values if name.startswith("pooled")), None)
    if read is None:  # then the conditions read times alone, and no text encoder
        assert subject.base.family.name in {
            "anima",
            "chroma",
            "qwen-image",
            "qwen-image-21",
            "flux2",
            "flux2-dev",
            "ideogram4",
            "krea2",
            "z-image",
            "sd15",
        }
        return

    def gradients(**plan: Any) -> list[Tensor]:
        engine = equip(subject.model, subject.arch, device=DEVICE, **plan)
        try:
            text = values[read].clone().requires_grad_()
            loss = subject.base.live(subject.model, {**values, read: text}, places)["loss"].mean()
            return [loss, *torch.autograd.grad(loss, [text, *lora.trained(subject.model)], allow_unused=True)]
        finally:
            engine.close()

    def same(one: list[Tensor], other: list[Tensor]) -> bool:
        return all(a is b is None or torch.equal(a, b) for a, b in zip(one, other, strict=True))

    every = range(subject.count)
    plain = gradients()
    assert plain[1].abs().sum() > 0
    for plan in ({"checkpointed": subject.count}, {"checkpointed": subject.count, "streamed": every}):
        assert same(plain, gradients(**plan))
    assert same(plain, gradients(streamed=every, checkpointed=2, keep_attention=True))
    for kernel in ("auto", "math"):  # one that is named is tried first, without a gradient
        with raises(BadRecipe):
            gradients(hoist=True, attention=kernel)
