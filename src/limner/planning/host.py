"""How many bytes of the computer's own memory a run on a GPU needs, by phase: arithmetic. No torch.

Pages of files that are mapped are not counted: the system takes them back when it is short of memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from limner.nn.memory.plan import Plan
from limner.planning.memory import (
    CODES,
    MASTER,
    MIB,
    coding,
    frozen_bytes,
    saved_bytes,
    state_bytes,
    stored_modulation,
    trains_parts,
)
from limner.planning.profile import Block, Profile, Stage
from limner.recipe.optimizers import optimizer_of

Phase = Literal["load", "cache", "train", "save", "sample"]

LIBRARIES = 1200 * MIB
"""Resident memory of a process that has imported torch, diffusers and transformers and built a model."""

MALLOC_SLACK = 16 * MIB
"""What the C library keeps of what coding a weight has freed, until it is told to give it back
(``nn.memory.host_buffer``).
Measured: at most 11 MiB (benchmarks/memory/plan_host.py)."""

STAGING = 64 * MIB
"""What the driver locks to copy through what is not locked itself, such as a file: CUDA says that pageable
memory goes to staging memory first (``cudaMemcpyAsync``). Its size is assumed until a GPU has measured it."""

WORKERS = 4
"""Threads that decode images ahead of the encoder and write entries behind it, at most
(``training.encoders``)."""
QUEUED_IMAGES = 2 * WORKERS + 1
"""Images that are decoded and wait, and entries that wait to be written, at most."""
DECODING = 2
"""Copies of a picture as large as its file while it is decoded: as it was stored, and upright in RGB."""
PHOTO = 24_000_000
"""Pixels of a picture where there is none yet: a camera's."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of the computer's own memory."""

    pageable: int
    pinned: int = 0
    """Locked for the device to read; it cannot be swapped out."""

    @property
    def total(self) -> int:
        """Both."""
        return self.pageable + self.pinned


def host_memory_of(
    profile: Profile,
    plan: Plan,
    optimizer: str = "adamw",
    *,
    average: bool = False,
    image_pixels: int = PHOTO,
    sampling: bool = True,
) -> Mapping[Phase, HostMemory]:
    """What each phase takes.

    Args:
        profile: Of the base, the adapter and the largest bucket, with its stages.
        plan: How it is computed.
        optimizer: The recipe's.
        average: Whether a moving average of the weights is kept.
        image_pixels: Pixels of the largest picture file.
        sampling: Whether samples are generated between the steps.
    """
    training = resident(profile, plan, optimizer, average=average)
    snapshot = 0 if profile.on_host else saved_bytes(profile, plan, optimizer, average=average)
    if plan.parted > 1:  # the first of the processes gathers it; of the computer each has a share
        snapshot = -(-snapshot // plan.parted)
    hosts: dict[Phase, HostMemory] = {
        "load": _loading(profile, plan),
        "cache": caching(profile, plan, image_pixels=image_pixels),
        "train": training,
        "save": HostMemory(training.pageable + snapshot, training.pinned),
    }
    if sampling:
        stages = [stage for stage in profile.stages if stage.phase == "sample"]
        copy_bytes = max((stage.copy_bytes for stage in stages), default=0)
        locked_bytes = 0
        if any(stage.swapped_bytes for stage in stages) and not plan.mmap_weights:  # of a second denoiser
            as_stored = replace(plan, precompute_modulation=False)
            locked_bytes = sum(frozen_bytes(block, as_stored) for block in profile.blocks)
        hosts["sample"] = HostMemory(training.pageable + copy_bytes, training.pinned + locked_bytes)
    return hosts


def resident(profile: Profile, plan: Plan, optimizer: str = "adamw", *, average: bool = False) -> HostMemory:
    """What is there while it trains: what left the device, locked whole unless it lies in files.

    Of a full fine-tune on the host masters, gradients and moments are here, and locked room for what is under
    way.
    """
    if profile.on_host:
        checkpoint = saved_bytes(profile, plan, optimizer, average=average)
        return HostMemory(LIBRARIES + checkpoint + MASTER * profile.learning, profile.whole)
    paged_state = state_bytes(profile, plan, optimizer) if optimizer_of(optimizer).paged else 0
    swapped_bytes = [frozen_bytes(block, plan) for block in _away(profile, plan)]
    modulation_bytes = (
        [block.modulation for block in (profile.rest, *profile.blocks)] if plan.precompute_modulation else []
    )
    if plan.mmap_weights:
        return HostMemory(LIBRARIES + paged_state, STAGING)
    return HostMemory(LIBRARIES + paged_state, sum(swapped_bytes) + sum(modulation_bytes))


def caching(profile: Profile, plan: Plan, *, image_pixels: int = PHOTO) -> HostMemory:
    """What filling the cache takes: one encoder on its way to the device, and pictures on theirs to it."""
    stages = [stage for stage in profile.stages if stage.phase == "cache"]
    hosts = [_encoding(stage, plan, image_bytes(profile, stage, image_pixels)) for stage in stages]
    return max(hosts, key=lambda host: host.total, default=HostMemory(LIBRARIES))


def image_bytes(profile: Profile, stage: Stage, image_pixels: int = PHOTO) -> int:
    """Bytes of all that waits for an encoder, is being decoded, or waits to be written."""
    entries = QUEUED_IMAGES * profile.entry
    if stage.times != "image":
        return entries
    width, height = profile.size
    return entries + 3 * (QUEUED_IMAGES * width * height + WORKERS * DECODING * image_pixels)


def _encoding(stage: Stage, plan: Plan, queue_bytes: int) -> HostMemory:
    """An encoder that comes layer by layer is locked, or in files; else it goes to the device whole."""
    swap = plan.encode_streamed and stage.layerwise_weights < stage.weights
    if swap and not plan.encode_mapped:
        return HostMemory(LIBRARIES + queue_bytes, stage.weights)
    return HostMemory(LIBRARIES + queue_bytes + stage.copy_bytes, STAGING if swap else 0)


def _loading(profile: Profile, plan: Plan) -> HostMemory:
    """What stays on the host is read there, part by part; all else goes from its file to the device."""
    if profile.on_host:  # the masters, the working copy on its way, and its locked room
        return HostMemory(LIBRARIES + MASTER * profile.trained + profile.whole, profile.whole)
    parts = [_read(profile, block, plan) for block in _away(profile, plan)]
    if plan.precompute_modulation and profile.cast:
        parts += [block.modulation for block in (profile.rest, *profile.blocks)]
    if plan.shards > 1:  # whole there before it is split: pages of its files, unless it is cast or trained
        trained = MASTER * profile.trained * trains_parts(profile, plan)
        copies = sum(frozen_bytes(block, plan) for block in profile.blocks) * profile.cast
        return HostMemory(LIBRARIES + trained + copies)
    # each part is laid into its file, or its locked place, while it is still there as it was read
    code_bytes = coding(_away(profile, plan), plan)
    base_bytes = LIBRARIES + (code_bytes + MALLOC_SLACK if code_bytes else 0)
    if plan.head_shards > 1:  # all heads are there before they are divided
        base_bytes += MASTER * profile.trained
    return HostMemory(
        base_bytes + max(parts, default=0), 0 if plan.mmap_weights else resident(profile, plan).pinned
    )


def _read(profile: Profile, block: Block, plan: Plan) -> int:
    """Bytes that reading a block makes: its codes, and what its files hold in another precision."""
    codes = block.weight_bytes[plan.weights] if plan.weights in CODES else 0
    if not profile.cast:
        return codes
    plain = block.weight_bytes[plan.compute] if not codes else 0
    # modulations are read in full where they stay so
    return codes + plain + block.other + (stored_modulation(block, plan) or block.modulation)


def _away(profile: Profile, plan: Plan) -> list[Block]:
    return [profile.blocks[number] for number in plan.swapped_of(len(profile.blocks))]
