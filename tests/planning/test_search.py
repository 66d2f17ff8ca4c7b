from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blueprints import flux, small
from limner.errors import DoesNotFit
from limner.nn.memory.plan import Plan
from limner.planning import memory
from limner.planning.cards import known
from limner.planning.choice import (
    PROCESS,
    PlanRequest,
    assess,
    budget,
    cache_memory,
    fineness,
    fits,
    mechanism_count,
)
from limner.planning.devices import of_card, of_cpu
from limner.planning.profile import OpCounts
from limner.planning.search import LEEWAY, TIE, below, choose, encoded_below
from limner.planning.time import CostModel
from messages import raises

GB, MB = 2**30, 2**20
PROFILES = {size: flux(size) for size in (512, 768, 1024)}
SHALLOW = {size: flux(size, doubles=4, singles=6) for size in (512, 1024)}
"""A sixth of the blocks: as many sorts of plans, in a fraction of the time."""
REQUEST = PlanRequest(compute="bf16")


def device(memory: float = 24, name="RTX 4090"):
    card = known(name)
    assert card is not None
    return of_card(card, round(memory * GB))


def chosen(size, card, request=REQUEST):
    """None when nothing fits."""
    try:
        return choose(SHALLOW[size], card, request)
    except DoesNotFit:
        return None


def seconds(choice, request):
    return choice.step_time.seconds + choice.compiling / request.steps


sizes = st.sampled_from(list(SHALLOW))
memories = st.floats(1.5, 14)
names = st.sampled_from(["RTX 3060", "RTX 4060", "RTX 4090", "H100"])
qualities = st.sampled_from(["16bit", "8bit", "4bit"])
batches = st.sampled_from([1, 2, 4])
wishes = st.builds(
    lambda quality, batch: PlanRequest(compute="bf16", min_weight_precision=quality, batches=(batch,)),
    qualities,
    batches,
)


@settings(max_examples=20)
@given(sizes, memories, memories, names, wishes)
def test_more_memory_never_gives_a_slower_plan(size, one, other, name, request):
    less, more = sorted((one, other))
    tight, roomy = chosen(size, device(less, name), request), chosen(size, device(more, name), request)
    assume(tight)
    assert roomy is not None
    assert seconds(roomy, request) <= seconds(tight, request) * (1 + TIE) * (1 + LEEWAY)


@settings(max_examples=20)
@given(sizes, memories, names, wishes, st.sampled_from([2, 4, 8, 128]))
def test_what_is_chosen_fits_and_is_as_fine_as_wished(size, memory, name, request, ram):
    card = device(memory, name).with_ram(ram * GB)
    choice = chosen(size, card, request)
    assume(choice)
    assert choice is not None
    assert fits(choice, card)
    assert choice.needs["train"].reserved <= card.free
    assert choice.plan.weights in request.weights
    assert request.batches[0] % choice.plan.micro_batch == 0


@settings(max_examples=20)
@given(sizes, memories, names, batches)
def test_a_lower_floor_is_never_slower(size, memory, name, batch):
    paces = []
    for quality in ("16bit", "8bit", "4bit"):
        request = PlanRequest(compute="bf16", min_weight_precision=quality, batches=(batch,))
        choice = chosen(size, device(memory, name), request)
        paces.append(seconds(choice, request) if choice else float("inf"))
    assert paces[1] <= paces[0] * (1 + TIE) * (1 + LEEWAY)
    assert paces[2] <= paces[1] * (1 + TIE) * (1 + LEEWAY)


@pytest.mark.parametrize("memory", [0.19, 0.21, 0.24, 0.3])
@pytest.mark.parametrize("copy", [1.0, 0.1], ids=["a fast bus", "a slow one"])
def test_no_other_plan_of_a_small_model_is_faster(memory, copy):
    """Every plan there is, one by one, without any of the search's shortcuts."""
    profile = small(4, width=128, saved=12 * MB)
    card = replace(device(), free=round((memory + 0.55) * GB))
    card = replace(card, rates=replace(card.rates, copy=copy * card.rates.copy))
    request = PlanRequest(compute="bf16", min_weight_precision="4bit", batches=(2,), steps=100_000)
    best = choose(profile, card, request)
    stored = [(weights, False) for weights in ("bf16", "int8", "nf4")] + [("nf4", True)]
    ways = product(stored, range(5), range(5), *[(False, True)] * 3, (2, 3), (1, 2))
    times, sizes = [], []
    for (weights, coded), checkpointed, streamed, hoist, keep, compiled, slots, micro in ways:
        if (keep and compiled) or (coded and hoist):
            continue
        plan = Plan(
            compute="bf16",
            weights=weights,
            code_modulations=coded,
            checkpointed_blocks=checkpointed,
            swapped_blocks=streamed,
            precompute_modulation=hoist,
            keep_attention=keep,
            swap_buffers=slots,
            micro_batch=micro,
            compile=compiled,
        )
        one = assess(profile, card, request, plan)
        if fits(one, card):
            times.append(seconds(one, request))
            alike = fineness(plan) == fineness(best.plan)
            alike = alike and mechanism_count(plan) <= mechanism_count(best.plan)
            if alike and seconds(one, request) <= seconds(best, request):
                sizes.append(one.reserved)
    assert min(times) * 0.999999 <= seconds(best, request) <= min(times) * (1 + TIE) * (1 + LEEWAY)
    assert best.reserved <= min(sizes)


def test_what_costs_no_time_leaves_the_device_free():
    """Copies hide behind computation, so the card need not be full of blocks."""
    profile, card = PROFILES[1024], device(30, "RTX 3060")
    choice = choose(profile, card, replace(REQUEST, min_weight_precision="16bit"))
    assert choice.plan.swapped_blocks > 0
    fewer = replace(choice.plan, swapped_blocks=choice.plan.swapped_blocks - 3)
    fuller = assess(profile, card, REQUEST, fewer)
    assert fits(fuller, card)
    assert fuller.step_time.seconds >= choice.step_time.seconds / (1 + LEEWAY)
    assert choice.reserved < 0.95 * budget(card)


def test_ties_go_to_the_finer_weights_and_to_the_simpler_plan():
    for quality in ("16bit", "8bit", "4bit"):
        choice = choose(
            PROFILES[512], device(80, "H100"), replace(REQUEST, min_weight_precision=quality, steps=100)
        )
        assert choice.plan == Plan(compute="bf16", weights="bf16")


def test_what_stays_and_what_comes_are_counted_apart_as_together():
    """The sum by which the search says that a plan fits is what a whole count says."""
    profile = PROFILES[768]
    for weights, checkpointed, streamed, hoist in product(
        ("bf16", "nf4"), (0, 20, 57), (0, 13, 57), (False, True)
    ):
        plan = Plan(
            compute="bf16",
            weights=weights,
            checkpointed_blocks=checkpointed,
            swapped_blocks=streamed,
            precompute_modulation=hoist,
        )
        whole = memory.train_memory(profile, plan)
        here = replace(plan, swapped_blocks=0)
        come = memory.train_memory(profile, here).reserved - memory.staying(profile, here)
        stay = memory.staying(profile, replace(plan, checkpointed_blocks=0))
        assert stay == whole.total - whole.causes["activations"] - whole.causes["gradients"]
        assert whole.reserved == stay + come


def test_moments_of_eight_bits_are_the_last_resort_and_never_at_full_quality():
    profile = replace(SHALLOW[512], trained=400_000_000)
    least = next(size for size in range(3, 40) if _fits(profile, device(size)))
    roomy = choose(profile, device(least + 4), REQUEST)
    assert roomy.plan.optimizer_state == "fp32"
    assert choose(profile, device(least), REQUEST).plan.optimizer_state == "8bit"
    with pytest.raises(DoesNotFit):
        choose(profile, device(least), replace(REQUEST, optimizer_state=("fp32",)))
    with pytest.raises(DoesNotFit):
        choose(profile, device(least), replace(REQUEST, min_weight_precision="16bit"))


def _fits(profile, card):
    try:
        return choose(profile, card, REQUEST)
    except DoesNotFit:
        return None


def test_a_run_that_began_with_moments_of_eight_bits_goes_on_with_them_at_any_quality():
    request = replace(REQUEST, min_weight_precision="16bit", optimizer_state=("8bit",))
    assert choose(SHALLOW[512], device(24), request).plan.optimizer_state == "8bit"


def test_a_processor_streams_nothing_and_recomputes_when_memory_is_short():
    profile = small(8, saved=80 * MB)
    request = PlanRequest(compute="fp32")
    roomy = choose(profile, of_cpu(2, 8 * GB, 8 * GB), request)
    assert roomy.plan == Plan()
    short = of_cpu(2, 8 * GB, PROCESS + 600 * MB)
    plan = choose(profile, short, request).plan
    assert plan.checkpointed_blocks > 0
    assert (plan.swapped_blocks, plan.precompute_modulation, plan.compile) == (0, False, False)


def test_host_memory_that_is_short_for_loading_is_known_before():
    card = device(8).with_ram(14 * GB)
    plan = choose(PROFILES[1024], card, replace(REQUEST, min_weight_precision="8bit"))
    assert all(each.total <= card.ram for each in plan.hosts.values())
    coded = replace(REQUEST, weight_kinds=("int8",))
    tight = choose(PROFILES[1024], device(8).with_ram(8 * GB), coded)
    assert tight.plan.mmap_weights and tight.hosts["load"].total < 2 * GB, (
        "no more than one block is made at a time"
    )
    with pytest.raises(DoesNotFit):
        choose(PROFILES[1024], device(8).with_ram(1 * GB), coded)


def test_host_memory_that_is_short_leaves_weights_on_disk():
    plan = choose(
        PROFILES[1024], device(8).with_ram(8 * GB), replace(REQUEST, min_weight_precision="16bit")
    ).plan
    assert plan.mmap_weights
    assert not choose(
        PROFILES[1024], device(8).with_ram(64 * GB), replace(REQUEST, min_weight_precision="16bit")
    ).plan.mmap_weights


def test_the_rungs_of_the_ladder_need_less_each_time_and_keep_the_precision():
    card, profile = device(7), SHALLOW[1024]
    request = replace(REQUEST, batches=(4,))
    choice = choose(profile, card, request)
    needs, rung = [choice.needs["train"].reserved], choice
    for _ in range(3):
        rung = below(profile, card, request, rung.plan)
        assert rung.plan.weights == choice.plan.weights
        assert 4 % rung.plan.micro_batch == 0
        assert rung.plan.encode_streamed == choice.plan.encode_streamed
        needs.append(rung.needs["train"].reserved)
    assert all(after <= 0.9 * before for before, after in zip(needs, needs[1:], strict=False))


def test_a_peak_above_the_prediction_is_expected_of_the_next_plan_too():
    card, profile = device(16), PROFILES[1024]
    plan = choose(profile, card, REQUEST).plan
    needed = assess(profile, card, REQUEST, plan).needs["train"].reserved
    rung = below(profile, card, REQUEST, plan, used_bytes=round(needed * 1.3))
    assert rung.needs["train"].reserved * 1.3 <= budget(card)


def test_the_cache_has_rungs_of_its_own_and_no_other_choice_moves():
    card, profile = device(24), PROFILES[1024]
    plan = choose(profile, card, REQUEST).plan
    assert not plan.encode_streamed
    lower = encoded_below(profile, card, REQUEST, plan)
    assert lower == replace(plan, encode_streamed=True)
    needs = [cache_memory(profile, each, card, REQUEST).reserved for each in (plan, lower)]
    assert needs[1] <= 0.9 * needs[0]
    assert encoded_below(profile, card, REQUEST, plan, used_bytes=2 * budget(card)) == lower
    with raises(DoesNotFit):
        for _ in range(9):
            plan = encoded_below(profile, card, REQUEST, plan)


def test_a_ladder_ends():
    card, profile, plan, first = device(5), SHALLOW[512], None, Plan()
    with pytest.raises(DoesNotFit):
        plan = first = choose(profile, card, REQUEST).plan
        for _ in range(20):
            plan = below(profile, card, REQUEST, plan).plan
    assert plan is not None
    assert plan.weights == first.weights


@pytest.mark.parametrize("quality", ["16bit", "8bit", "4bit"])
def test_of_hundreds_of_thousands_of_plans_few_are_summed_up_and_timed(quality, monkeypatch):
    calls = Counter()

    def counted(owner, name):
        true = getattr(owner, name)

        def call(*given, **named):
            calls[name] += 1
            return true(*given, **named)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (CostModel, "micro_batch"),
        (CostModel, "bound"),
        (memory, "train_memory"),
        (memory, "load_memory"),
    ):
        counted(owner, name)
    choose(PROFILES[1024], device(10), replace(REQUEST, min_weight_precision=quality, batches=(4,)))
    assert 0 < calls["micro_batch"] < 600 and 0 < calls["bound"] < 15_000
    assert 0 < calls["train_memory"] < 3_000 and 0 < calls["load_memory"] < 1_500


@pytest.mark.parametrize("memory", [8, 12, 24])
def test_what_the_engine_cannot_do_together_is_not_planned(memory):
    found = chosen(
        1024,
        device(memory, "RTX 4090"),
        PlanRequest(compute="bf16", min_weight_precision="4bit", batches=(1,)),
    )
    assert found is not None
    assert not (found.plan.compile and found.plan.keep_attention)


def test_modulations_stay_where_a_text_encoder_is_trained():
    free = PlanRequest(
        compute="bf16",
        min_weight_precision="16bit",
        batches=(1,),
        exclusions=frozenset({"swapped_blocks", "compile"}),
    )
    bound = replace(free, exclusions=free.exclusions | {"precompute_modulation"})
    card = device(24)
    assert choose(flux(512), replace(card, free=20 * 2**30), free).plan.precompute_modulation
    with pytest.raises(DoesNotFit):
        choose(flux(512), replace(card, free=20 * 2**30), bound)


EIGHT = replace(REQUEST, matmul_precision="8bit")


def test_products_in_8_bits_are_chosen_when_asked_for_and_then_weights_are_stored_so():
    assert REQUEST.weights == ["bf16", "int8", "fp8"] and EIGHT.weights == ["int8", "fp8"]
    assert replace(EIGHT, min_weight_precision="4bit").weights == ["int8", "fp8"]
    assert replace(EIGHT, weight_kinds=("nf4",)).weights == []
    for name in ("H100", "RTX 4090"):
        plan = choose(SHALLOW[512], device(24, name), EIGHT).plan
        assert (plan.weights, plan.matmul_precision) == ("int8", "8bit")
    assert choose(SHALLOW[512], device(24), REQUEST).plan.matmul_precision == "full"


def test_fp8_is_looked_at_where_it_multiplies_faster():
    profile = SHALLOW[512]
    eight = OpCounts(w8a8=profile.blocks[0].forward.gemm)
    blocks = tuple(replace(block, forward=eight, backward=eight) for block in profile.blocks)
    card = device(24)
    quick = {"int8": card.rates.gemm["bf16"], "fp8": 2 * card.rates.gemm["bf16"]}
    card = replace(card, compiles=False, rates=replace(card.rates, eight=quick))
    found = choose(replace(profile, blocks=blocks), card, EIGHT)
    assert (found.plan.weights, found.plan.matmul_precision) == ("fp8", "8bit")


def test_the_ladder_keeps_the_products():
    first = choose(SHALLOW[1024], device(24), EIGHT)
    next_ = below(SHALLOW[1024], device(24), EIGHT, first.plan)
    assert (next_.plan.matmul_precision, next_.plan.weights) == ("8bit", first.plan.weights)
    assert next_.needs["train"].reserved < first.needs["train"].reserved
