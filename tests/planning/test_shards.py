"""Weights split over processes: what each holds, what comes to it, and when the plan does it."""

from dataclasses import replace

import pytest

from limner.errors import DoesNotFit
from limner.nn.memory.plan import Plan
from limner.planning import shards
from limner.planning.advice import misfit
from limner.planning.choice import PlanRequest, assess
from limner.planning.devices import BUS_LINK, COPY, LINK, LOOPBACK, of_cpu
from limner.planning.memory import moving_bytes
from limner.planning.search import choose
from limner.planning.several import one_of
from limner.planning.time import update_seconds
from limner.planning.trained import PREDICTOR, WHOLE_MODEL
from shard_cases import FLUX, REQUEST, card, whole_model

BF16 = Plan(compute="bf16", weights="bf16")
GB = 2**30


def test_each_process_keeps_a_part_of_the_frozen_weights_and_has_three_blocks_whole():
    device = card("H100", 80, 4)
    causes = assess(FLUX, device, REQUEST, BF16).needs["train"].causes
    split = assess(FLUX, device, REQUEST, replace(BF16, shards=4)).needs["train"].causes
    inside = sum(block.weight_bytes["bf16"] + block.other for block in FLUX.blocks)
    outside = causes["weights"] - inside
    assert split["weights"] - outside == pytest.approx(inside / 4, rel=1e-6)
    assert split["modulations"] < causes["modulations"] and split["adapter"] == causes["adapter"]
    first = FLUX.blocks[0]
    assert split["gathered"] == 3 * (first.weight_bytes["bf16"] + first.other + first.modulation)
    assert "gathered" not in causes and split["activations"] == causes["activations"]


def test_of_a_full_fine_tune_all_that_is_trained_is_split():
    device, profile = card("H100", 80, 2), whole_model()
    profile = replace(profile, whole=4 * profile.trained)  # as profiles of whole models have it
    request = replace(REQUEST, trained=WHOLE_MODEL)
    causes = assess(profile, device, request, BF16).needs["train"].causes
    split = assess(profile, device, request, replace(BF16, shards=2)).needs["train"].causes
    for cause in ("trained", "optimizer"):
        assert split[cause] == pytest.approx(causes[cause] / 2, rel=1e-6)
    assert split["gathered"] == 5 * 4 * 200_000_000, "as it came and was laid out, two gradients"
    plans = (BF16, replace(BF16, shards=2))
    plain, parts = (moving_bytes(profile, plan, "adamw", all_reduce=True) for plan in plans)
    assert parts < plain / 2, "nothing else is summed"
    size = sum(shards.block_bytes(profile, plans[1])) + 4 * (
        profile.learning - sum(block.trained for block in profile.blocks)
    )
    assert shards.passed_bytes(profile, plans[1]) == 3 * size / 2, "forward, backward, gradients"


def test_the_larger_part_counts():
    assert [shards.part(size, 4) for size in (0, 4, 5, 8)] == [0, 1, 2, 2]


def test_what_comes_in_a_step_takes_the_time_of_the_link():
    plan = replace(BF16, shards=4)
    size = sum(shards.block_bytes(FLUX, plan))
    assert shards.passed_bytes(FLUX, plan) == pytest.approx(2 * size * 3 / 4)
    nvlink, bus = card("H100", 80, 4), card("RTX 3060", 12, 4)
    assert nvlink.rates.link == 450e9 * LINK
    assert bus.rates.link == 31.5e9 * COPY * BUS_LINK
    fast, slow = (assess(FLUX, device, REQUEST, plan).step_time for device in (nvlink, bus))
    first, last = shards.block_bytes(FLUX, plan)[0], shards.block_bytes(FLUX, plan)[-1]
    assert fast.waiting == pytest.approx((first + last) * 3 / 4 / nvlink.rates.link), "the rest is hidden"
    crawling = replace(bus, rates=replace(bus.rates, link=1e6))
    assert assess(FLUX, crawling, REQUEST, plan).step_time.waiting == pytest.approx(
        shards.passed_bytes(FLUX, plan) / 1e6, rel=0.01
    )
    assert slow.seconds > fast.seconds


HEADS = replace(
    FLUX, trained=2_020_000_000, heads=2_000_000_000, factors=5_000_000, largest=40_000_000, stages=()
)
PREDICTING = replace(
    REQUEST,
    trained=PREDICTOR,
    batches=(2,),
    sampling=False,
    exclusions=frozenset({"swapped_blocks", "compile"}),
)


def test_of_a_predictor_each_process_holds_its_share_of_the_heads():
    device, plan = card("H100", 80, 4), replace(BF16, micro_batch=2, head_shards=4)
    whole = assess(HEADS, device, PREDICTING, replace(plan, head_shards=1)).needs["train"].causes
    split = assess(HEADS, device, PREDICTING, plan).needs["train"].causes
    numbers = 20_000_000 + 500_000_000 + 40_000_000  # what all have, a quarter, what a share may exceed it by
    assert whole["adapter"] == 4 * 2_020_000_000 and split["adapter"] == 4 * numbers
    assert split["optimizer"] == 8 * numbers and split["weights"] == whole["weights"]
    assert split["activations"] + split["gradients"] < whole["activations"] + whole["gradients"]
    assert shards.exchanged_bytes(HEADS, plan) == 2 * 4 * 5_000_000 * 2 * 3 / 4
    assert shards.summed_numbers(HEADS, plan) == 20_000_000
    plain, parts = (
        moving_bytes(HEADS, entry, "adamw", all_reduce=True) for entry in (replace(plan, head_shards=1), plan)
    )
    assert plain - parts == 4 * 2_000_000_000, "nothing of a head is summed"


def test_heads_are_divided_where_that_is_faster_or_alone_fits():
    both, device = replace(PREDICTING, shards=(1, 4)), card("H100", 80, 4)
    one, four = (choose(HEADS, device, replace(both, shards=(n,))) for n in (1, 4))
    assert (one.plan.head_shards, four.plan.head_shards, four.plan.shards) == (1, 4, 1)
    assert four.step_time.seconds < one.step_time.seconds
    assert choose(HEADS, device, both).plan.head_shards == 4
    many = replace(HEADS, heads=10_000_000, trained=30_000_000)  # less to sum than to exchange
    assert choose(many, device, both).plan.head_shards == 1
    small = card("RTX 4090", 24, 4)
    with pytest.raises(DoesNotFit):
        choose(HEADS, small, replace(both, shards=(1,)))
    plan = choose(HEADS, small, replace(both, min_weight_precision="4bit")).plan
    assert plan.head_shards == 4 and plan.optimizer_state == "fp32"
    assert "a card of" in str(misfit(HEADS, card("RTX 3060", 6, 4), both))


def test_a_processor_waits_for_all_that_comes():
    device = one_of(of_cpu(2, 64 * GB, 60 * GB), 2, 2)
    plan = Plan(shards=2)
    time = assess(FLUX, device, PlanRequest(compute="fp32"), plan).step_time
    assert time.waiting == pytest.approx(shards.passed_bytes(FLUX, plan) / LOOPBACK)


def test_processes_that_have_all_sum_their_gradients_in_time():
    profile = whole_model()
    alone, two = card("H100", 80, 1), card("H100", 80, 2)
    extra = update_seconds(profile, BF16, two, "adamw") - update_seconds(profile, BF16, alone, "adamw")
    assert extra == pytest.approx(4 * profile.learning / two.rates.link)
