import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limner.nn.memory.plan import Plan, coding_bytes, stored_bytes
from limner.nn.optim import evaluation_mode, optimizer
from limner.planning.memory import (
    cache_memory,
    load_memory,
    moving_bytes,
    sample_memory,
    state_bytes,
    train_memory,
)
from limner.planning.profile import Affine, Block, OpCounts, Profile, Stage
from limner.recipe.optimizers import optimizer_of

BYTES = st.integers(0, 10**10)


@st.composite
def lines(draw: st.DrawFn, most: Affine | None = None) -> Affine:
    """Not more than ``most`` at any number of images."""
    if most is None:
        return Affine(draw(BYTES), draw(BYTES))
    share = draw(st.floats(0, 1))
    return Affine(most.offset * share, most.per_image * share)


@st.composite
def made(draw: st.DrawFn, kind: str = "block") -> Block:
    weights, saved, back = draw(BYTES), draw(lines()), draw(lines())
    return Block(
        kind=kind,
        weight_bytes={
            "fp32": 4 * weights,
            "bf16": 2 * weights,
            "int8": weights,
            "fp8": weights,
            "nf4": weights // 2,
        },
        other=draw(BYTES),
        modulation=draw(BYTES),
        widest=draw(st.integers(0, max(0, 2 * weights // 8))),
        saved=saved,
        input=draw(lines(saved)),
        attention_kept=draw(lines(saved)),
        forward=OpCounts(),
        backward=OpCounts(),
        tail=OpCounts(),
        trained=draw(st.integers(0, 10**8)),
        backward_room=back,
        recompute_room=draw(lines(back)),
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Of four or more blocks of at most two kinds, each at least twice."""
    kinds = [draw(made("double")), draw(made("single"))]
    blocks = (kinds[0],) * draw(st.integers(2, 4)) + (kinds[1],) * draw(st.integers(2, 4))
    return Profile(
        base="a base",
        family="flux",
        size=(1024, 1024),
        blocks=blocks,
        rest=replace(draw(made("rest")), modulation=min(block.modulation for block in kinds)),
        trained=sum(block.trained for block in blocks),
        tensors=8,
        factored=draw(st.integers(0, 10**8)),
        forward=draw(lines()),
        backward=Affine(),
        recompute=Affine(),
        stages=(_stage("cache", draw(BYTES), draw(BYTES)), _stage("sample", draw(BYTES), draw(BYTES))),
    )


def _stage(phase: str, weights: int, activations: int) -> Stage:
    return Stage(
        phase=phase,
        name="a model",
        weights=weights,
        layerwise_weights=weights // 10,
        activations=activations,
        work=OpCounts(),
        times="image",
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    return Plan(
        compute="bf16",
        weights=draw(st.sampled_from(["bf16", "int8", "fp8", "nf4"])),
        checkpointed_blocks=draw(st.integers(0, 8)),
        keep_attention=draw(st.booleans()),
        swapped_blocks=draw(st.integers(0, 8)),
        swap_buffers=draw(st.integers(2, 3)),
        precompute_modulation=draw(st.booleans()),
        micro_batch=draw(st.integers(1, 4)),
        optimizer_state=draw(st.sampled_from(["fp32", "8bit"])),
    )


@given(profiles(), plans())
def test_it_grows_with_the_batch(profile: Profile, plan: Plan) -> None:
    more = replace(plan, micro_batch=plan.micro_batch + 1)
    assert train_memory(profile, more).reserved >= train_memory(profile, plan).reserved


@given(profiles(), plans())
def test_it_shrinks_with_every_checkpointed_block(profile: Profile, plan: Plan) -> None:
    count = min(plan.checkpointed_blocks, len(profile.blocks))
    needs = [train_memory(profile, replace(plan, checkpointed_blocks=k)).total for k in range(count + 1)]
    assert needs == sorted(needs, reverse=True)


@given(profiles(), plans())
def test_it_shrinks_with_the_precision_of_the_weights(profile: Profile, plan: Plan) -> None:
    every = ("fp32", "bf16", "int8", "nf4")
    needs = [
        train_memory(profile, replace(plan, weights=weights, swapped_blocks=0)).total for weights in every
    ]
    assert needs == sorted(needs, reverse=True)


@given(profiles(), plans())
def test_it_shrinks_when_modulations_are_hoisted(profile: Profile, plan: Plan) -> None:
    plain = train_memory(profile, replace(plan, precompute_modulation=False, swapped_blocks=0))
    hoisted = train_memory(profile, replace(plan, precompute_modulation=True, swapped_blocks=0))
    assert hoisted.total <= plain.total
    assert hoisted.causes["modulations"] == 0


@given(profiles(), plans())
def test_it_shrinks_with_every_streamed_block_once_the_slots_are_full(profile: Profile, plan: Plan) -> None:
    alike = replace(profile, blocks=(profile.blocks[0],) * 9)
    needs = [
        train_memory(alike, replace(plan, swapped_blocks=count)).total
        for count in range(plan.swap_buffers, 10)
    ]
    assert needs == sorted(needs, reverse=True)


@given(profiles(), plans())
def test_it_shrinks_with_smaller_moments(profile: Profile, plan: Plan) -> None:
    small, large = (train_memory(profile, replace(plan, optimizer_state=kind)) for kind in ("8bit", "fp32"))
    assert small.total <= large.total


@given(profiles(), plans(), st.integers(2, 5))
def test_gradients_that_wait_for_more_micro_batches_take_room(
    profile: Profile, plan: Plan, accumulation_steps: int
) -> None:
    assert (
        train_memory(profile, plan, accumulation_steps=accumulation_steps).total
        >= train_memory(profile, plan).total
    )


BLOCK = Block(
    kind="block",
    weight_bytes={"fp32": 400, "bf16": 200, "int8": 104, "nf4": 53},
    other=10,
    modulation=30,
    widest=100,
    saved=Affine(0, 1000),
    input=Affine(0, 100),
    attention_kept=Affine(0, 50),
    forward=OpCounts(),
    backward=OpCounts(),
    tail=OpCounts(),
    trained=5,
)
PROFILE = Profile(
    base="a base",
    family="flux",
    size=(64, 64),
    blocks=(BLOCK,) * 4,
    rest=replace(BLOCK, saved=Affine(0, 70), input=Affine(0, 20), trained=0),
    trained=20,
    tensors=8,
    factored=12,
    forward=Affine(0, 7),
    backward=Affine(0, 300),
    recompute=Affine(0, 200),
    stages=(_stage("cache", 5000, 60), _stage("cache", 100, 6000), _stage("sample", 70, 8)),
)
BF16 = Plan(compute="bf16", weights="bf16")


def need(**choice) -> dict[str, int]:
    return dict(train_memory(PROFILE, replace(BF16, **choice), device_kind="cpu").causes)


def test_without_checkpoints_everything_is_kept() -> None:
    causes = need()
    assert causes["weights"] == 5 * 210
    assert causes["modulations"] == 5 * 30
    assert causes["activations"] == 20 + 4 * 1000 + 300  # the last block's backward pass
    assert causes["gradients"] == 0
    assert (causes["adapter"], causes["optimizer"]) == (80, 160)


def test_a_checkpointed_block_keeps_its_input_until_it_is_computed_again() -> None:
    assert need(checkpointed_blocks=4)["activations"] == 20 + 3 * 100 + 1000 + 200
    assert need(checkpointed_blocks=4, keep_attention=True)["activations"] == 20 + 3 * 150 + 1000 + 200
    assert need(checkpointed_blocks=2, micro_batch=2)["activations"] == 2 * (20 + 2 * 100 + 2 * 1000 + 300)


def test_codes_are_turned_back_one_at_a_time() -> None:
    assert need(weights="nf4")["weights"] == 4 * 63 + 210
    assert need(weights="nf4")["activations"] == need()["activations"] + 100


def test_modulations_in_codes_take_what_other_weights_in_nf4_take() -> None:
    plain, coded = need(weights="nf4"), need(weights="nf4", code_modulations=True)
    assert plain["modulations"] == 4 * 30 + PROFILE.rest.modulation
    assert coded["modulations"] == 4 * stored_bytes("nf4", 1, 15) + PROFILE.rest.modulation
    assert {**plain, "modulations": 0} == {**coded, "modulations": 0}


def test_streamed_blocks_share_slots() -> None:
    assert need(swapped_blocks=4)["weights"] == 210
    assert need(swapped_blocks=4)["streaming"] == 2 * 240
    assert need(swapped_blocks=4, precompute_modulation=True, swap_buffers=3)["streaming"] == 3 * 210 + 30, (
        "modulations pass through, too"
    )
    assert need(swapped_blocks=1)["streaming"] == 240


@pytest.mark.parametrize(
    ("name", "size"),
    [("adamw", 160), ("adamw8bit", 41), ("adafactor", 48), ("prodigy", 320), ("schedulefree", 160)],
)
def test_optimizers_differ(name: str, size: int) -> None:
    assert state_bytes(PROFILE, BF16, name) == size


def taken(act: Callable[[], object]) -> int:
    """Most bytes that something takes while it runs, by torch's own count."""
    seen: Any = torch.profiler.profile(profile_memory=True)
    with seen:
        act()
    changes = [each.nbytes() for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("sides", [[64] * 8, [64] * 7 + [160]])
@pytest.mark.parametrize(("name", "rate"), [("adafactor", 1e-3), ("prodigy", 1.0), ("schedulefree", 1e-3)])
def test_what_an_optimizer_needs_while_it_steps(name: str, rate: float, sides: list[int]) -> None:
    pytest.importorskip({"adafactor": "transformers", "prodigy": "prodigyopt"}.get(name, name))
    weights = [torch.nn.Parameter(torch.randn(side, side)) for side in sides]
    made = optimizer(name, [{"params": weights, "lr": rate}])

    def given_gradients() -> Any:
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        return made

    for _ in range(2):
        given_gradients().step()
    given_gradients()
    measured = taken(made.step)
    count = sum(weight.numel() for weight in weights)
    record = optimizer_of(name)
    scratch = record.step_bytes * count + record.step_bytes_of_largest * max(sides) ** 2
    assert 0.45 * scratch <= measured <= 1.01 * scratch


def test_while_pictures_are_painted_the_weights_that_schedule_free_trains_wait() -> None:
    pytest.importorskip("schedulefree")
    weights = [torch.nn.Parameter(torch.randn(64, 64)) for _ in range(8)]
    made = optimizer("schedulefree", [{"params": weights, "lr": 1e-3}])
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    made.step()
    parked = optimizer_of("schedulefree").parked_bytes
    assert taken(lambda: evaluation_mode(made)) == pytest.approx(parked * 8 * 64 * 64, rel=0.01)
    need, plain = (sample_memory(WHOLE, BF16, optimizer=name).total for name in ("schedulefree", "adamw"))
    assert need == plain + parked * PROFILE.trained
    assert sample_memory(AWAY, BF16, optimizer="schedulefree").total == sample_memory(AWAY, BF16).total


WHOLE = replace(PROFILE, whole=4 * PROFILE.trained)
AWAY = replace(PROFILE, whole=2 * PROFILE.trained, on_host=True)


def test_of_a_full_fine_tune_weights_and_their_average_are_on_the_device() -> None:
    need = train_memory(WHOLE, BF16, average=True, device_kind="cpu")
    assert need.causes["trained"] == 2 * 4 * PROFILE.trained and "adapter" not in need.causes
    assert need.causes["optimizer"] == 8 * PROFILE.trained
    assert load_memory(WHOLE, BF16).causes["trained"] == 4 * PROFILE.trained


def test_on_the_host_only_a_copy_is_left_on_the_device_and_no_gradient() -> None:
    need = train_memory(AWAY, BF16, average=True, accumulation_steps=4, device_kind="cpu")
    assert need.causes["trained"] == 2 * PROFILE.trained
    assert need.causes["optimizer"] == need.causes["gradients"] == 0


def test_gradients_behind_the_last_block_are_there_before_its_own() -> None:
    plain, head = (train_memory(replace(WHOLE, head=each), BF16, device_kind="cpu").total for each in (0, 10))
    assert head == plain + 40


def test_phases_take_their_fullest_stage() -> None:
    assert cache_memory(PROFILE, device_kind="cpu").total == 6100
    assert cache_memory(PROFILE, layer_by_layer=True, device_kind="cpu").total == 6010
    training = train_memory(PROFILE, BF16, device_kind="cpu")
    painting = sample_memory(PROFILE, BF16, device_kind="cpu")
    assert painting.total == training.total - training.causes["activations"] + 78
    assert training.largest == "activations"


def test_loading_takes_what_stays_and_the_tensor_that_is_coded() -> None:
    nf4 = replace(BF16, weights="nf4")
    assert load_memory(PROFILE, nf4, device_kind="cpu").total == 4 * 93 + 240 + coding_bytes("nf4", 50)
    assert load_memory(PROFILE, BF16, device_kind="cpu").total == 5 * 240, "read where it lies"
    read = {
        (plan.weights, cast): load_memory(replace(PROFILE, cast=cast), plan).causes["activations"]
        for plan in (BF16, nf4)
        for cast in (False, True)
    }
    assert (read["bf16", False], read["bf16", True]) == (0, 200), "to read fp32 is to copy"
    assert [read["nf4", cast] - coding_bytes("nf4", 50) for cast in (False, True)] == [100, 200]


def test_a_gpu_takes_a_context_and_an_allocator() -> None:
    here, there = (
        train_memory(PROFILE, BF16, device_kind="cpu"),
        train_memory(PROFILE, BF16, device_kind="cuda"),
    )
    assert there.total - here.total == there.causes["context"] + there.causes["workspace"]
    assert there.reserved > there.total
    assert here.reserved == here.total


def test_what_is_asked_for_after_the_last_gradient() -> None:
    plan, numbers = Plan(), PROFILE.learning
    assert numbers and moving_bytes(PROFILE, plan, "adamw") == 0
    assert moving_bytes(PROFILE, plan, "adamw", first=True) == 8 * numbers
    assert moving_bytes(PROFILE, plan, "adamw", all_reduce=True) == 4 * numbers
    assert moving_bytes(PROFILE, plan, "schedulefree", first=True) == (8 + 4) * numbers
    assert moving_bytes(PROFILE, plan, "adafactor") == 12 * PROFILE.largest
    assert moving_bytes(PROFILE, plan, "pagedadamw8bit", first=True) == 0
    assert moving_bytes(replace(PROFILE, on_host=True), plan, "adamw", first=True, all_reduce=True) == 0
