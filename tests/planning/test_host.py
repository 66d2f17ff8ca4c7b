from dataclasses import replace

import pytest

from blueprints import flux
from limner.nn.memory.plan import Plan, coding_bytes
from limner.planning.host import (
    DECODING,
    LIBRARIES,
    MALLOC_SLACK,
    QUEUED_IMAGES,
    STAGING,
    WORKERS,
    HostMemory,
    caching,
    host_memory_of,
    resident,
)
from limner.planning.memory import CODES, frozen_bytes, saved_bytes, state_bytes, train_memory
from limner.training import encoders

GB = 2**30
FLUX = flux(1024)
CAST = replace(FLUX, cast=True)
BF16 = Plan(compute="bf16", weights="bf16")
INT8 = replace(BF16, weights="int8")
WHOLE = replace(FLUX, whole=4 * FLUX.trained)
AWAY = replace(FLUX, whole=2 * FLUX.trained, on_host=True)
PICTURE = 4000 * 3000


def every(profile, plan):
    """Bytes of the denoiser as the plan stores it."""
    return sum(frozen_bytes(block, plan) for block in (*profile.blocks, profile.rest))


@pytest.mark.parametrize("streamed", [0, 1, 20, 57])
@pytest.mark.parametrize("hoist", [False, True])
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_what_leaves_the_device_is_locked_in_the_host(streamed, hoist, weights):
    plan = replace(BF16, weights=weights, swapped_blocks=streamed, precompute_modulation=hoist)
    here, all_here = (train_memory(FLUX, each).causes for each in (plan, replace(BF16, weights=weights)))
    left = sum(all_here[name] - here[name] for name in ("weights", "modulations"))
    assert resident(FLUX, plan) == HostMemory(LIBRARIES, left)
    assert resident(FLUX, replace(plan, mmap_weights=True)) == HostMemory(LIBRARIES, STAGING), (
        "files are not locked"
    )


def test_a_model_that_goes_to_the_device_tensor_by_tensor_takes_nothing_on_its_way():
    for profile in (FLUX, CAST):
        for plan in (BF16, INT8):
            assert host_memory_of(profile, plan)["load"] == HostMemory(LIBRARIES)


def test_codes_that_are_made_on_the_host_are_there_until_they_are_laid_where_they_stay():
    plan = replace(INT8, swapped_blocks=57)
    loading = host_memory_of(FLUX, plan)["load"]
    assert loading.pinned == resident(FLUX, plan).pinned
    widest = max(block.weight_bytes["int8"] for block in FLUX.blocks)
    coding = MALLOC_SLACK + coding_bytes("int8", max(block.widest for block in FLUX.blocks) // 2)
    assert loading.pageable == LIBRARIES + widest + coding
    half = host_memory_of(FLUX, replace(INT8, swapped_blocks=28))["load"]
    assert half.pageable == loading.pageable and half.pinned < loading.pinned, "the others go to the device"
    mapped = host_memory_of(FLUX, replace(plan, mmap_weights=True))["load"]
    assert mapped == HostMemory(LIBRARIES + widest + coding), (
        "each block becomes a file as soon as it is whole"
    )


def test_files_of_the_run_s_precision_are_mapped_and_others_are_copied():
    plan = replace(BF16, swapped_blocks=20)
    assert host_memory_of(FLUX, plan)["load"].pageable == LIBRARIES
    copied = host_memory_of(CAST, plan)["load"]
    widest = max(block.weight_bytes["bf16"] + block.other + block.modulation for block in CAST.blocks)
    assert copied == HostMemory(LIBRARIES + widest, resident(CAST, plan).pinned)
    hoisted = replace(BF16, precompute_modulation=True)
    assert host_memory_of(FLUX, hoisted)["load"].pageable == LIBRARIES
    assert host_memory_of(CAST, hoisted)["load"].pageable > LIBRARIES


def test_an_encoder_is_copied_mapped_or_locked():
    text, image, *_ = FLUX.stages
    copied = replace(FLUX, stages=(replace(text, copy_bytes=text.weights), image))
    waiting = QUEUED_IMAGES * FLUX.entry
    decoded = 3 * (QUEUED_IMAGES * 1024 * 1024 + WORKERS * DECODING * PICTURE)
    assert caching(FLUX, BF16, image_pixels=PICTURE) == HostMemory(LIBRARIES + waiting + decoded)
    assert caching(copied, BF16, image_pixels=PICTURE) == HostMemory(LIBRARIES + waiting + text.weights)
    streamed = replace(BF16, encode_streamed=True)
    for profile in (FLUX, copied):
        assert caching(profile, streamed) == HostMemory(LIBRARIES + waiting, text.weights)
    in_files = replace(streamed, encode_mapped=True)
    assert caching(FLUX, in_files, image_pixels=PICTURE) == max(
        HostMemory(LIBRARIES + waiting, STAGING),
        HostMemory(LIBRARIES + waiting + decoded),
        key=lambda host: host.total,
    )


def test_larger_pictures_take_more_of_the_host_while_they_are_decoded():
    small, large = (caching(FLUX, BF16, image_pixels=pixels).total for pixels in (10**6, 10**8))
    assert large - small == 3 * WORKERS * DECODING * (10**8 - 10**6)


def test_there_are_as_many_workers_as_fill_the_cache():
    assert encoders.THREADS <= WORKERS
    assert encoders.ROOM + 1 <= QUEUED_IMAGES


def test_what_is_saved_passes_through_the_host():
    plan = replace(BF16, swapped_blocks=20)
    hosts = host_memory_of(FLUX, plan, average=True)
    copied = saved_bytes(FLUX, plan, "adamw", average=True)
    assert hosts["save"] == HostMemory(hosts["train"].pageable + copied, hosts["train"].pinned)
    assert host_memory_of(WHOLE, BF16, average=True)["save"] == HostMemory(
        LIBRARIES + (4 + 4 + 8) * FLUX.trained
    )
    assert "sample" not in host_memory_of(FLUX, plan, sampling=False)


def test_of_a_full_fine_tune_on_the_host_masters_gradients_and_moments_are_there():
    hosts = host_memory_of(AWAY, BF16, average=True)
    assert hosts["train"] == HostMemory(LIBRARIES + (4 + 4 + 4 + 8) * FLUX.trained, 2 * FLUX.trained)
    assert hosts["save"] == hosts["train"], "they are saved from where they are"
    assert hosts["load"].total <= hosts["train"].total


def test_paged_moments_are_counted_on_the_host():
    paged, plain = (resident(WHOLE, BF16, name) for name in ("pagedadamw8bit", "adamw8bit"))
    assert paged.pageable - plain.pageable == state_bytes(WHOLE, BF16, "adamw8bit")


def test_every_way_of_storing_codes_is_made_on_the_host():
    for weights in CODES:
        plan = replace(BF16, weights=weights, swapped_blocks=10)
        assert host_memory_of(FLUX, plan)["load"].pageable > LIBRARIES
