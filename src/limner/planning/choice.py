"""What a person wishes, as far as it decides how a run can be computed; and a plan with what it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from limner.errors import BadRecipe
from limner.nn.memory.plan import BITS, CAPABLE, Compute, Gradients, OptimizerState, Plan, Products, Weights
from limner.planning import host, memory
from limner.planning.devices import Device
from limner.planning.host import PHOTO, HostMemory, host_memory_of
from limner.planning.memory import MemoryEstimate
from limner.planning.profile import Profile
from limner.planning.time import StepTime, accumulation_of, compile_seconds, step_time_of
from limner.planning.trained import ADAPTERS, TrainedKind
from limner.recipe.optimizers import optimizer_of

WeightPrecision = Literal["16bit", "8bit", "4bit"]
Phase = Literal["load", "cache", "train", "sample"]

FINENESS: tuple[Weights, ...] = ("nf4", "fp8", "int8", "bf16", "fp16", "fp32")
"""From coarse to fine. An int8 row keeps 0.8 % of relative error in a product, fp8 2.6 %."""


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What of a recipe decides how it can be computed."""

    compute: Compute
    trained: TrainedKind = ADAPTERS
    """Adapters on frozen weights, or every weight of the denoiser."""
    min_weight_precision: WeightPrecision = "8bit"
    batches: tuple[int, ...] = (1,)
    """Images per step: one's own, and those of the prior."""
    has_teacher: bool = False
    """Whether those of the prior pass through the bare base first, which is their teacher."""
    is_led_back: bool = False
    """Whether all pass through it first: ``instant.target = "base"``."""
    is_slider: bool = False
    """Whether each micro-batch passes both ways, for which the bare base answers three prompts."""
    micro_batch: int | None = None
    """Most images that may pass at once."""
    matmul_precision: Products = "full"
    """How frozen layers multiply. In 8 bits: those that are stored in int8 or fp8, and all are."""
    optimizer: str = "adamw"
    average: bool = False
    steps: int = 1000
    sampling: bool = True
    """Whether samples are generated between the steps."""
    weight_kinds: tuple[Weights, ...] | None = None
    """Only these ways of storing weights, whatever ``min_weight_precision`` says."""
    code_modulations: bool | None = None
    """Whether modulations are stored in NF4 with the other weights of the blocks. None: as is faster."""
    exclusions: frozenset[str] = frozenset()
    """Fields of a plan that stay at their default, such as "swapped_blocks"."""
    optimizer_state: tuple[OptimizerState, ...] = ("fp32", "8bit")
    """Ways of storing the optimizer's state. The second is for AdamW, when nothing fits with the first."""
    image_pixels: int = PHOTO
    """Pixels of the largest picture file."""
    shards: tuple[int, ...] = (1,)
    """Processes that the denoiser's weights may be split over, fewest first; 1: each has all."""

    def teacher_share(self, plan: Plan) -> float:
        """Passes of the bare base for each micro-batch of a step, for a prior's teacher or a slider."""
        if self.is_slider:
            return 3 / 2
        if self.is_led_back:
            return 1.0
        return (
            accumulation_of(plan, self.batches[1:]) / accumulation_of(plan, self.batches)
            if self.has_teacher
            else 0.0
        )

    @property
    def micro_batch_sizes(self) -> list[int]:
        """Micro-batches that make up the batch without a rest, and are allowed; the largest first."""
        limit, batch = self.micro_batch or max(self.batches), max(self.batches)
        return [size for size in range(batch, 0, -1) if batch % size == 0 and size <= limit] or [1]

    def hoists(self, device: Device) -> bool:
        """Whether modulations may be precomputed."""
        return (
            device.kind == "cuda"
            and "precompute_modulation" not in self.exclusions
            and self.trained.keeps_blocks
        )

    def modulations(self, profile: Profile, device: Device, weights: Weights) -> list[dict[str, bool]]:
        """Ways to keep modulations beside blocks whose weights are stored so: fields of a plan."""
        if not any(block.modulation for block in profile.blocks):
            return [{}]
        ways: list[dict[str, bool]] = [] if self.code_modulations and weights == "nf4" else [{}]
        if ways and self.hoists(device):
            ways.append({"precompute_modulation": True})
        if weights == "nf4" and self.code_modulations is not False:
            ways.append({"code_modulations": True})
        return ways

    def swaps(self, device: Device) -> bool:
        """Whether blocks may be swapped."""
        return device.kind == "cuda" and "swapped_blocks" not in self.exclusions and self.trained.keeps_blocks

    def gradients(self, device: Device) -> tuple[Gradients, ...]:
        """Ways to keep gradients on a device that give the same step, the plain one first.

        In bf16 those of a full fine-tune that multiplies in it: of one micro-batch, as every image has a size
        of its own; not where processes sum them in fp32, or an optimizer looks at all of them at once.
        """
        halves = self.trained.half_gradients and self.compute == "bf16" and self.batches == (1,)
        halves = halves and device.kind == "cuda" and device.processes == 1
        return ("fp32", "bf16") if halves and optimizer_of(self.optimizer).in_portions else ("fp32",)

    @property
    def weights(self) -> list[Weights]:
        """Ways of storing weights that are fine enough, the finest first."""
        if not self.trained.keeps_blocks:
            return [self.compute]
        fine: list[Weights]
        if self.weight_kinds is not None:
            fine = [kind for kind in reversed(FINENESS) if kind in self.weight_kinds]
        else:
            min_bits = int(self.min_weight_precision.removesuffix("bit"))
            codes: list[Weights] = [
                kind for kind in reversed(FINENESS) if kind in memory.CODES and BITS[kind] >= min_bits
            ]
            fine = [self.compute, *codes]
        able: list[Weights] = [kind for kind in fine if self.matmul_precision == "full" or kind in CAPABLE]
        return able


def fineness(plan: Plan) -> tuple[int, bool]:
    """How coarse the stored weights are, then whether modulations are too."""
    return -FINENESS.index(plan.weights), plan.code_modulations


def rank(seconds: float, plan: Plan) -> tuple[tuple[int, bool], int, float]:
    """What is preferred among plans that are equally fast: precise, then simple, then fast."""
    return fineness(plan), mechanism_count(plan), seconds


def mechanism_count(plan: Plan) -> int:
    """How many ways to save memory or time a plan uses."""
    used = (
        plan.swapped_blocks,
        plan.precompute_modulation,
        plan.keep_attention,
        plan.compile,
        plan.checkpointed_blocks,
        plan.mmap_weights,
    )
    used += (plan.decode_tiled, plan.swap_buffers > 2, plan.gradients == "bf16")
    return sum(map(bool, used))


def multiplied(request: PlanRequest, device: Device) -> PlanRequest:
    """The request without weights that the device does not multiply in 8 bits, where products shall be so.

    Raises:
        BadRecipe: There are no others.
    """
    if request.matmul_precision == "full":
        return request
    able = device.eightfold
    if kinds := tuple(kind for kind in able if kind in request.weights):
        return replace(request, weight_kinds=kinds)
    raise BadRecipe(
        f"The run multiplies {' and '.join(request.weights)} in 8 bits, and {device.name} "
        f"{' and '.join(able)} only. Go on where it began, or begin another run with --out."
    )


def optimizer_states(profile: Profile, device: Device, request: PlanRequest) -> list[OptimizerState]:
    """Ways to store the optimizer's state, in the order to try them in. Most optimizers have one."""
    if profile.on_host:
        return ["host"]
    if not optimizer_of(request.optimizer).in_8_bits or device.kind != "cuda":
        return ["fp32"]
    if request.optimizer_state == ("8bit",):  # a run that goes on as it began, whatever is wished now
        return ["8bit"]
    return [
        state
        for state in request.optimizer_state
        if state == "fp32" or state == "8bit" and request.min_weight_precision != "16bit"
    ]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A plan with what it needs."""

    plan: Plan
    needs: dict[Phase, MemoryEstimate]
    hosts: Mapping[host.Phase, HostMemory]
    """What each phase takes of the computer's memory; of a run on a processor only what is no tensor."""
    step_time: StepTime
    compiling: float = 0.0
    """Seconds, once."""

    @property
    def reserved(self) -> int:
        """Bytes of device memory at the fullest moment of all phases."""
        return max(need.reserved for need in self.needs.values())

    @property
    def host(self) -> HostMemory:
        """The computer's memory in the phase that takes most of it."""
        return max(self.hosts.values(), key=lambda phase_host: phase_host.total)


def assess(profile: Profile, device: Device, request: PlanRequest, plan: Plan) -> Choice:
    """What a given plan needs, whether it fits or not."""
    kind, accumulation_steps = device.kind, accumulation_of(plan, request.batches)
    needs: dict[Phase, MemoryEstimate] = {
        "load": memory.load_memory(profile, plan, device_kind=kind),
        "cache": cache_memory(profile, plan, device, request),
        "train": memory.train_memory(
            profile,
            plan,
            optimizer=request.optimizer,
            accumulation_steps=accumulation_steps,
            average=request.average,
            device_kind=kind,
        ),
    }
    if request.sampling:
        needs["sample"] = sample_memory(profile, plan, device, request)
    return Choice(
        plan=plan,
        needs=needs,
        hosts=host_memory(profile, plan, device, request),
        step_time=step_time_of(
            profile,
            plan,
            device,
            batches=request.batches,
            optimizer=request.optimizer,
            teacher_share=request.teacher_share(plan),
        ),
        compiling=compile_seconds(profile, plan),
    )


ENCODING: tuple[dict[str, bool], ...] = tuple(
    {"encode_streamed": swap, "encode_mapped": mapped, "encode_tiled": tiled}
    for tiled in (False, True)
    for swap, mapped in ((False, False), (True, False), (True, True))
)
"""Ways to fill the cache, the plain one first: tiles change an image's latents a little."""


def encoding(profile: Profile, device: Device, plan: Plan, request: PlanRequest) -> Plan | None:
    """The plan with the plainest way to fill the cache that fits; None when none does."""
    for way in ENCODING:
        candidate = replace(plan, **way)
        if cache_memory(profile, candidate, device, request).reserved <= budget(device) and (
            holds(device, host.caching(profile, candidate, image_pixels=request.image_pixels))
        ):
            return candidate
    return None


def cache_memory(profile: Profile, plan: Plan, device: Device, request: PlanRequest) -> MemoryEstimate:
    """What filling the cache takes. Pictures that wait are on the device where that is the processor."""
    variant = _staged(profile, plan)
    if device.kind == "cpu":
        stages = (
            replace(
                stage, activations=stage.activations + host.image_bytes(profile, stage, request.image_pixels)
            )
            for stage in variant.stages
        )
        variant = replace(variant, stages=tuple(stages))
    return memory.cache_memory(variant, device_kind=device.kind)


def sample_memory(profile: Profile, plan: Plan, device: Device, request: PlanRequest) -> MemoryEstimate:
    """What sampling between two steps takes."""
    return memory.sample_memory(
        _staged(profile, plan),
        plan,
        optimizer=request.optimizer,
        average=request.average,
        device_kind=device.kind,
    )


def _staged(profile: Profile, plan: Plan) -> Profile:
    """The profile with its stages as the plan runs them."""
    ways = {"cache": (plan.encode_streamed, plan.encode_tiled), "sample": (False, plan.decode_tiled)}
    stages = []
    for stage in profile.stages:
        swap, tiling = ways[stage.phase]
        weights = stage.layerwise_weights if swap else stage.weights
        activations = (
            stage.activations if stage.tiled_activations is None or not tiling else stage.tiled_activations
        )
        stages.append(replace(stage, weights=weights, activations=activations))
    return replace(profile, stages=tuple(stages))


PROCESS = 450 * 2**20
"""Resident memory of a process on a processor beside its tensors, once it has trained and sampled: torch,
diffusers, transformers, what their kernels keep. Measured with the embedded base:
benchmarks/memory/plan_cpu.py."""


def host_memory(
    profile: Profile, plan: Plan, device: Device, request: PlanRequest
) -> Mapping[host.Phase, HostMemory]:
    """What each phase takes of the computer's memory."""
    if device.kind != "cpu":
        options = {
            "average": request.average,
            "image_pixels": request.image_pixels,
            "sampling": request.sampling,
        }
        return host_memory_of(profile, plan, request.optimizer, **options)
    # a checkpoint is mapped to be compared, and so counts as resident
    saved = 0
    if request.trained.maps_checkpoints:
        saved = memory.saved_bytes(profile, plan, request.optimizer, average=request.average)
    return {"save": HostMemory(PROCESS + saved)}


def budget(device: Device) -> int:
    """Bytes that tensors may take: on a processor, what libraries leave of the host's memory."""
    return device.free - (PROCESS if device.kind == "cpu" else 0)


def fits(choice: Choice, device: Device) -> bool:
    """Whether device, host and pinned memory suffice."""
    return choice.reserved <= budget(device) and holds(device, *choice.hosts.values())


def holds(device: Device, *needs: HostMemory) -> bool:
    """Whether host and pinned memory suffice. That of a processor is the device's, and counted there."""
    if device.kind == "cpu":
        return True
    return all(need.total <= device.ram and need.pinned <= device.pinned for need in needs)
