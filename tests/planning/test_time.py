from dataclasses import replace

import pytest

from blueprints import flux, small
from limner.nn.memory.plan import Plan
from limner.planning import devices
from limner.planning.cards import known
from limner.planning.devices import COMPILING, of_card, of_cpu
from limner.planning.profile import Affine, OpCounts
from limner.planning.time import (
    CostModel,
    accumulation_of,
    compile_seconds,
    seconds_of,
    step_time_of,
    total_of,
)

FLUX = flux(1024)


def device(name="RTX 4090"):
    card = known(name)
    assert card is not None
    return of_card(card)


def seconds(plan=None, name="RTX 4090", profile=FLUX, **values):
    plan = plan or Plan(compute="bf16", **({"weights": "bf16"} | values))
    return step_time_of(profile, plan, device(name)).seconds


def test_work_takes_the_longer_of_computing_and_launching_on_a_gpu_and_both_on_a_processor():
    work = OpCounts(gemm=Affine(0, 1e12), traffic=Affine(0, 1e9), kernels=10)
    gpu, cpu = device(), of_cpu(2, 2**34, 2**33)
    busy = 2e12 / gpu.rates.gemm["bf16"] + 2e9 / gpu.rates.traffic
    assert seconds_of(work, gpu, "bf16", 2) == pytest.approx(busy)
    assert seconds_of(replace(work, kernels=10**7), gpu, "bf16", 2) == pytest.approx(10**7 * gpu.rates.launch)
    alone = seconds_of(replace(work, kernels=0), cpu, "fp32", 1)
    assert seconds_of(work, cpu, "fp32", 1) == pytest.approx(alone + 10 * cpu.rates.launch)


def test_flux_takes_what_was_worked_out_by_hand_for_a_4090_and_an_h100():
    # 171 TFLOP without and 245 with full recomputation at 165, 140 and 109 TFLOP/s, and 290 GB of
    # elementwise traffic at 887 GB/s: 1.50 s; an H100 in eager mode, that recomputes everything: .71 s, as
    # three published forward passes of .23 s each
    assert seconds() == pytest.approx(1.5, rel=0.03)
    assert seconds(checkpointed_blocks=57, tail_skip=False, name="H100") == pytest.approx(0.71, rel=0.03)


def test_recomputing_costs_its_forward_pass_less_the_tail_and_the_attention_that_was_kept():
    cost_model = CostModel(FLUX, Plan(compute="bf16", weights="bf16", tail_skip=False), device())
    assert cost_model.recompute == pytest.approx(cost_model.forward)
    without_tail = seconds(checkpointed_blocks=57)
    assert without_tail < seconds(checkpointed_blocks=57, tail_skip=False)
    assert seconds(checkpointed_blocks=57, keep_attention=True) < without_tail
    assert seconds(keep_attention=True) == seconds()


def test_streaming_hides_behind_computation_until_copies_take_longer():
    resident = seconds()
    assert seconds(swapped_blocks=10) == pytest.approx(resident, rel=0.02)
    cost_model = CostModel(FLUX, Plan(compute="bf16", weights="bf16"), device())
    slow = replace(device(), rates=replace(device().rates, copy=1e9))
    crawling = CostModel(FLUX, Plan(compute="bf16", weights="bf16"), slow)
    everything = range(57)
    took, waited = crawling.micro_batch(0, everything)
    # all but the buffers comes twice in a pass, at 1 GB/s
    twice = 2 * sum(crawling.bytes) - 2 * 2 * max(crawling.bytes)
    assert took >= twice / 1e9
    assert took == pytest.approx(2 * sum(crawling.bytes) / 1e9, rel=0.1)
    assert waited == pytest.approx(took - cost_model.once)


def test_a_plan_never_takes_less_than_its_bound():
    for rate in (1e9, 1e10, 1e12):
        slow = replace(device(), rates=replace(device().rates, copy=rate))
        for weights, hoist in (("bf16", False), ("nf4", False), ("bf16", True)):
            cost_model = CostModel(
                FLUX, Plan(compute="bf16", weights=weights, precompute_modulation=hoist), slow
            )
            for streamed in (0, 1, 2, 3, 20, 57):
                away = Plan(swapped_blocks=streamed).swapped_of(57)
                for checkpointed in (0, 20, 57):
                    assert cost_model.bound(checkpointed, away) <= cost_model.micro_batch(checkpointed, away)[
                        0
                    ] * (1 + 1e-9)


def test_one_block_more_that_is_recomputed_or_streamed_never_saves_time():
    cost_model = CostModel(FLUX, Plan(compute="bf16", weights="int8"), device("RTX 4060"))
    for streamed in (0, 3, 19, 57):
        away = Plan(swapped_blocks=streamed).swapped_of(57)
        times = [cost_model.micro_batch(count, away)[0] for count in range(58)]
        assert times == sorted(times)


def test_weights_on_disk_come_no_faster_than_the_disk():
    assert seconds(swapped_blocks=40, mmap_weights=True) > seconds(swapped_blocks=40) * 1.5


def test_hoisted_modulations_come_while_the_forward_pass_goes_on():
    """Each is there before the block that reads what it gives, or is waited for."""
    moved = sum(block.modulation for block in FLUX.blocks) / device().rates.copy
    cost_model = CostModel(FLUX, Plan(compute="bf16", weights="bf16", precompute_modulation=True), device())
    took, waited = cost_model.micro_batch(0, ())
    assert took == pytest.approx(cost_model.once + waited)
    first = FLUX.blocks[0].modulation / device().rates.copy
    assert first <= waited < moved / 4, "a 4090 computes for longer than it copies"
    assert sum(cost_model.forward) + waited >= moved
    slow = replace(device(), rates=replace(device().rates, copy=1e9))
    crawling = CostModel(FLUX, Plan(compute="bf16", weights="bf16", precompute_modulation=True), slow)
    took, waited = crawling.micro_batch(0, ())
    reading = cost_model.modulation_bytes / device().rates.traffic
    every = cost_model.modulation_bytes / 1e9 + reading
    last = FLUX.blocks[-1].modulation / 1e9
    computing = sum(crawling.forward) - crawling.forward[-1]
    assert waited == pytest.approx(every - computing, rel=0.01) and last < waited
    assert step_time_of(FLUX, crawling.plan, slow, batches=(2,)).waiting == pytest.approx(2 * waited)


def test_a_batch_is_its_micro_batches_and_one_update():
    plan = Plan(compute="bf16", weights="bf16")
    one = step_time_of(FLUX, plan, device())
    four = step_time_of(FLUX, plan, device(), batches=(4,))
    assert four.seconds - four.optimizer == pytest.approx(4 * (one.seconds - one.optimizer))
    assert accumulation_of(Plan(micro_batch=2), (4, 3)) == 4
    assert accumulation_of(Plan(micro_batch=4), (4,)) == 1


def test_compiling_pays_in_traffic_and_costs_once_for_each_sort_of_block():
    plan = Plan(compute="bf16", weights="bf16", compile=True)
    assert seconds(plan) < seconds()
    assert compile_seconds(FLUX, plan) == 2 * COMPILING
    assert compile_seconds(FLUX, Plan()) == 0


def test_a_run_is_loading_caching_training_and_painting():
    plan = Plan(compute="bf16", weights="bf16")
    step_time = step_time_of(FLUX, plan, device())
    counts = {"image": 10, "caption": 12, "sample step": 40}
    total = total_of(FLUX, plan, device(), step_time, steps=100, counts=counts)
    assert total.train == pytest.approx(100 * step_time.seconds)
    # 12 captions of 4.8 TFLOP, 10 images of 3
    assert total.cache == pytest.approx((12 * 4.8e12 + 10 * 3e12) / device().rates.gemm["bf16"])
    assert total.load == pytest.approx(33.7 / 2)
    assert total.seconds == pytest.approx(total.load + total.cache + total.train + total.sample)
    assert total_of(small(), plan, device(), step_time, steps=0, counts=counts).seconds == 0


def test_products_in_8_bits_run_at_their_own_rate_and_nothing_is_turned_back():
    gpu = device()
    work = OpCounts(w8a8=Affine(0, 1e12))
    assert seconds_of(work, gpu, "bf16", 2, weights="fp8") == 2e12 / gpu.rates.eight["fp8"]
    assert seconds_of(work, gpu, "bf16", 1) == 1e12 / gpu.rates.gemm["bf16"]
    stored = Plan(compute="bf16", weights="int8")
    turned, plain = (
        CostModel(FLUX, stored, gpu),
        CostModel(FLUX, replace(stored, matmul_precision="8bit"), gpu),
    )
    bare = CostModel(FLUX, Plan(compute="bf16", weights="bf16"), gpu)
    assert plain.forward == bare.forward and plain.backward == bare.backward
    assert sum(turned.forward) > sum(plain.forward)


def test_making_codes_for_products_in_8_bits_is_fused_where_blocks_are_compiled():
    gpu = device()
    plain = OpCounts(traffic=Affine(0, 1e9))
    coding = replace(plain, coding=Affine(0, 1e9))
    assert seconds_of(coding, gpu, "bf16", 1) == seconds_of(plain, gpu, "bf16", 1), "eager: all of it"
    compiled = seconds_of(coding, gpu, "bf16", 1, compiled=True)
    assert compiled == pytest.approx(devices.COMPILED_CODING * 1e9 / gpu.rates.traffic)
    assert compiled < 0.4 * seconds_of(plain, gpu, "bf16", 1, compiled=True)


def test_servers_take_longer_to_launch_than_desktops():
    assert device("L40S").rates.launch == devices.SERVER_LAUNCH > device().rates.launch == devices.LAUNCH


def test_a_student_computes_each_of_its_steps_once_more():
    cost = CostModel(FLUX, Plan(compute="bf16", weights="bf16"), device())
    once, update = seconds(), step_time_of(FLUX, cost.plan, device()).optimizer
    forward = sum(cost.forward) + cost.outside_seconds
    four = seconds(profile=replace(FLUX, passes=4))
    assert four - update == pytest.approx(4 * (once - update + forward))


def test_what_the_bare_base_answers_first_costs_its_forward_pass():
    plan = Plan(compute="bf16", weights="bf16")
    plain, taught = (
        step_time_of(FLUX, plan, device(), batches=(1, 1), teacher_share=share) for share in (0.0, 0.5)
    )
    cost_model = CostModel(FLUX, plan, device())
    once = sum(cost_model.forward) + cost_model.outside_seconds
    assert taught.seconds - plain.seconds == pytest.approx(once)
    streamed = replace(plan, swapped_blocks=57)
    slow = replace(device(), rates=replace(device().rates, copy=1e9))
    plain, taught = (
        step_time_of(FLUX, streamed, slow, batches=(1, 1), teacher_share=share) for share in (0.0, 0.5)
    )
    copying = sum(CostModel(FLUX, streamed, slow).bytes) / 1e9
    assert taught.seconds - plain.seconds == pytest.approx(copying, rel=0.01), "all blocks come once more"
