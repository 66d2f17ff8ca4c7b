from dataclasses import replace

import pytest

from blueprints import flux
from limner.nn.memory.plan import Plan
from limner.planning.cards import known
from limner.planning.choice import PROCESS, PlanRequest, assess, budget, cache_memory, encoding, fits, holds
from limner.planning.devices import of_card, of_cpu
from limner.planning.host import PHOTO, QUEUED_IMAGES, HostMemory

GB = 2**30
FLUX = flux(512)


def device(memory=24):
    card = known("RTX 4090")
    assert card is not None
    return of_card(card, memory * GB)


@pytest.mark.parametrize(
    ("compute", "quality", "weights"),
    [
        ("bf16", "16bit", ["bf16"]),
        ("bf16", "8bit", ["bf16", "int8", "fp8"]),
        ("bf16", "4bit", ["bf16", "int8", "fp8", "nf4"]),
        ("fp32", "16bit", ["fp32"]),
        ("fp32", "8bit", ["fp32", "int8", "fp8"]),
    ],
)
def test_weights_are_never_coarser_than_the_wish(compute, quality, weights):
    assert PlanRequest(compute=compute, min_weight_precision=quality).weights == weights


def test_micro_batches_make_up_the_batch_without_a_rest():
    assert PlanRequest(compute="bf16", batches=(12,)).micro_batch_sizes == [12, 6, 4, 3, 2, 1]
    assert PlanRequest(compute="bf16", batches=(12,), micro_batch=5).micro_batch_sizes == [4, 3, 2, 1]
    assert PlanRequest(compute="bf16", batches=(1,), micro_batch=8).micro_batch_sizes == [1]


def test_a_plan_is_assessed_in_all_phases():
    request = PlanRequest(compute="bf16")
    choice = assess(FLUX, device(32), request, Plan(compute="bf16", weights="bf16"))
    assert set(choice.needs) == {"load", "cache", "train", "sample"}
    assert choice.reserved == choice.needs["train"].reserved
    assert fits(choice, device(32))
    assert not fits(choice, device(24))
    assert "sample" not in assess(FLUX, device(), replace(request, sampling=False), choice.plan).needs


def test_the_memory_of_the_host_counts_too():
    request = PlanRequest(compute="bf16")
    choice = assess(FLUX, device(32), request, Plan(compute="bf16", weights="bf16", swapped_blocks=57))
    assert fits(choice, device(32).with_ram(64 * GB))
    assert not fits(choice, device(32).with_ram(30 * GB))  # 22 GB would have to be pinned of 15 that may be
    assert holds(replace(device(), ram=5 * GB, pinned=4 * GB), HostMemory(GB, 4 * GB))
    assert not holds(replace(device(), ram=5 * GB, pinned=3 * GB), HostMemory(GB, 4 * GB))
    assert not holds(replace(device(), ram=5 * GB, pinned=4 * GB), HostMemory(GB), HostMemory(6 * GB))
    assert choice.host == max(choice.hosts.values(), key=lambda each: each.total)


def test_encoders_come_layer_by_layer_where_they_do_not_fit_whole():
    plain, request = Plan(compute="bf16"), PlanRequest(compute="bf16")
    assert encoding(FLUX, device(24), plain, request) == plain
    small = encoding(FLUX, device(8), plain, request)
    assert small == replace(plain, encode_streamed=True)
    assert encoding(FLUX, device(1), plain, request) is None


def test_they_lie_in_files_where_the_host_may_not_lock_them():
    plain, request = Plan(compute="bf16"), PlanRequest(compute="bf16")
    found = encoding(FLUX, device(8).with_ram(16 * GB), plain, request)  # 9.5 GB, of 8 that may be locked
    assert found == replace(plain, encode_streamed=True, encode_mapped=True)
    assert encoding(FLUX, device(8).with_ram(1 * GB), plain, request) is None, "libraries alone take more"


def test_pictures_that_are_decoded_take_memory_of_a_processor():
    cpu, plan = of_cpu(2, 64 * GB, 60 * GB), Plan()
    few, many = (
        cache_memory(FLUX, plan, cpu, PlanRequest(compute="fp32", image_pixels=pixels)).total
        for pixels in (PHOTO, 100 * PHOTO)
    )
    assert many > few
    text = FLUX.stages[0]
    assert few == text.weights + text.activations + QUEUED_IMAGES * FLUX.entry


def test_a_processor_shares_its_memory_with_the_libraries():
    cpu = of_cpu(2, 8 * GB, 6 * GB)
    assert budget(cpu) == cpu.free - PROCESS
    assert budget(device()) == device().free
