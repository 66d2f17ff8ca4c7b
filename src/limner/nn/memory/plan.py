"""How a run is computed, never what it computes; and how many bytes a weight takes, by how it is stored.

No torch: a plan is made on one machine for another.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

QuantKind = Literal["int8", "fp8", "nf4"]
"""The ways to store a frozen weight in fewer bits than it is computed with."""

Products = Literal["full", "8bit"]
"""How such a layer multiplies: by its weight in full precision again, or 8 bits by 8
bits (``nn.layers.quantization``)."""

CAPABLE: dict[Literal["int8", "fp8"], tuple[int, int]] = {"int8": (8, 0), "fp8": (8, 9)}
"""What can be multiplied in 8 bits, and the compute capability of the oldest CUDA devices that do it."""

HALVES: dict[Literal["bf16", "fp16"], tuple[int, int]] = {"bf16": (8, 0), "fp16": (7, 0)}
"""Precisions of 16 bits, and the compute capability of the oldest CUDA devices with tensor cores for them."""

BLOCK = 64
"""Numbers of a 4-bit weight that share a scale (QLoRA, arXiv:2305.14314)."""
GROUP = 256
"""Such scales that share their own range."""
CHUNK = 1 << 20
"""Numbers of a weight that are coded at once: what coding takes does not grow with the weight."""
FULL = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number that is stored as it is."""


def stored_bytes(weights: str, rows: int, columns: int) -> int:
    """Bytes of the weight of a linear layer, its scales included and its bias left out: exact.

    Args:
        weights: "fp32", "bf16", "fp16", "int8", "fp8" or "nf4".
        rows: Outputs of the layer.
        columns: Inputs of the layer.

    Raises:
        ValueError: Nothing is stored like that.
    """
    numbers = rows * columns
    match weights:
        case "fp32" | "bf16" | "fp16":
            return FULL[weights] * numbers
        case "int8" | "fp8":
            return numbers + 4 * rows
        case "nf4":
            blocks = -(-numbers // BLOCK)
            return blocks * BLOCK // 2 + blocks + 8 * -(-blocks // GROUP)
    raise ValueError(f"weights are stored as fp32, bf16, fp16, int8, fp8 or nf4, not as {weights!r}")


def coding_bytes(kind: QuantKind, numbers: int) -> int:
    """Bytes that making the codes of a weight takes beside weight and codes, the scales of rows left aside.

    Two copies in fp32 of what is coded at once, in NF4 three, and there four of the scales of blocks. Where
    files hold fp32 it is one copy less.
    """
    if kind == "nf4":
        blocks = -(-numbers // BLOCK)
        return 12 * min(blocks * BLOCK, CHUNK) + 16 * GROUP * -(-blocks // GROUP)
    return 8 * min(numbers, CHUNK)


Kind = Literal["cuda", "cpu", "mps"]
"""Sorts of devices, as torch names them."""
Compute = Literal["fp32", "bf16", "fp16"]
Weights = Literal["fp32", "bf16", "fp16", "int8", "fp8", "nf4"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math"]
OptimizerState = Literal["fp32", "8bit", "host"]
Gradients = Literal["fp32", "bf16"]

CONTEXT: dict[Kind, int] = {"cuda": 500 * 2**20, "mps": 100 * 2**20, "cpu": 0}
"""Bytes taken before the first tensor: the driver's context and the modules of kernels, which torch loads as
they are first used (``CUDA_MODULE_LOADING=LAZY``). An assumption until a GPU has measured it."""

PORTION = 2**28
"""Bytes of gradients in bf16 that are fp32 at a time while the optimizer steps, or those of the largest
weight where it has more."""

ALL = 1 << 20
"""More blocks than any model has, for ``Plan.swapped_blocks``."""

BITS: dict[Weights, int] = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "fp8": 8, "nf4": 4}
"""Of a stored weight, scales left aside: what ``limits.weights_precision`` is compared with."""

CAUSES = {
    "weights": "frozen weights",
    "modulations": "modulation weights",
    "adapter": "LoRA weights",
    "trained": "trained weights",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "streaming": "block swap buffers",
    "gathered": "blocks gathered of shards",
    "workspace": "library workspaces",
    "context": "driver context",
}
"""What takes the memory of a device, as estimates name it -> in words."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides memory and speed of training. The defaults are the plain way."""

    compute: Compute = "fp32"
    """Precision of the arithmetic, and of frozen weights that ``weights`` does not speak of."""
    weights: Weights = "fp32"
    """How the frozen linear layers inside the denoiser's blocks are stored."""
    matmul_precision: Products = "full"
    """How those layers multiply: by weights in full precision again, or 8 bits by 8 bits (W8A8)."""
    checkpointed_blocks: int = 0
    """Gradient checkpointing: so many blocks, from the first, are recomputed in the backward pass."""
    tail_skip: bool = True
    """The recomputation leaves out what no gradient reads: the last linear layer of a block. Exact."""
    keep_attention: bool = False
    """Checkpointed blocks keep what their attention gave, so that it is not computed twice."""
    swapped_blocks: int = 0
    """Block swap: so many blocks, spread evenly, keep their frozen weights in CPU RAM until they are due."""
    shards: int = 1
    """Processes that the denoiser's weights are split over (FSDP2); 1: each process has all of them."""
    head_shards: int = 1
    """Processes that the heads of a predictor are divided between; 1: each process has all of them."""
    swap_buffers: int = 2
    """Blocks' worth of device memory that swapped blocks share, at least 2."""
    mmap_weights: bool = False
    """Swapped weights stay on disk, memory-mapped, because host memory is short."""
    precompute_modulation: bool = False
    """Modulations (adaLN) read one vector per image: computed once per step, ahead of the blocks, and their
    weights kept off the device."""
    code_modulations: bool = False
    """Modulations inside the blocks are stored in NF4, as ``weights`` are. Each of their numbers moves a
    whole channel: for where 4 bits are accepted, and keeping or precomputing them costs time."""
    micro_batch: int = 1
    """Images that pass through the device at once; gradients are accumulated over the rest of a batch."""
    optimizer_state: OptimizerState = "fp32"
    """How the optimizer stores its state; host: in fp32 in the host's memory, with the masters and gradients
    of a full fine-tune, of which the device has a copy to compute with."""
    gradients: Gradients = "fp32"
    """How a full fine-tune keeps gradients of linear layers and convolutions until the optimizer steps: in
    bf16 they are the same numbers (``nn.memory.offload``)."""
    attention: Attention = "auto"
    """Kernel of the attention; auto: the fastest that the device has for the shape."""
    compile: bool = False
    """Blocks are compiled, one graph for each sort of block."""
    encode_streamed: bool = False
    """Encoders that are made of layers come to the device layer by layer while the cache is filled. Exact."""
    encode_mapped: bool = False
    """Encoders that come layer by layer lie in files meanwhile, because host memory is short."""
    encode_tiled: bool = False
    """Images are encoded in overlapping tiles. Changes the numbers a little; the cache keeps them apart."""
    decode_tiled: bool = False
    """Samples are decoded in overlapping tiles."""

    def swapped_of(self, blocks: int) -> tuple[int, ...]:
        """Which of so many blocks are swapped: spread evenly, so that copies hide behind computation."""
        return _spread(min(self.swapped_blocks, blocks), blocks)

    @property
    def codes(self) -> QuantKind | None:
        """How weights are stored where that is not in full."""
        return None if self.weights in ("fp32", "bf16", "fp16") else self.weights

    @property
    def parted(self) -> int:
        """Processes that anything is split over."""
        return max(self.shards, self.head_shards)

    def to_json(self) -> dict[str, Any]:
        """What ``plan.json`` holds of it."""
        return asdict(self)


@cache
def _spread(count: int, blocks: int) -> tuple[int, ...]:
    return tuple(number * blocks // count for number in range(count))


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The plan of a run, what the planner found it to need, and the way down when memory runs out."""

    plan: Plan
    kind: Kind
    """Sort of the device."""
    free: int
    """Bytes of the device that were free."""
    bytes: int
    """Planned peak of the device."""
    process_bytes: int
    """What the process holds beside tensors; counts where the processor trains."""
    seconds_per_step: float
    """Of this process's share of a step."""
    seconds_per_micro_batch: float
    seconds: float
    """Of the whole run; NaN where nobody knows."""
    optimizer_bytes: tuple[int, int]
    """What the optimizer asks of the device in its first step, and in later ones."""
    disk: Mapping[str, int]
    """Bytes by purpose: "checkpoints", "model" .."""
    record: Mapping[str, Any]
    """What ``plan.json`` holds."""
    down: Callable[[int], "RunPlan"]
    """Bytes that were in use -> a plan that clearly needs less; raises DoesNotFit where there is none."""
    encode_down: Callable[[int], "RunPlan"]
    """The same for filling the cache."""
    is_common: bool = True
    """Whether all processes of the run compute by it, rather than each by its own."""


@dataclass(frozen=True)
class PreviousPrecision:
    """How a run that goes on has computed so far, where another way would give other numbers."""

    weights: Weights
    optimizer_state: OptimizerState
    matmul_precision: Products = "full"
    code_modulations: bool = False


EARLIER = {
    "products": "matmul_precision",
    "checkpointed": "checkpointed_blocks",
    "streamed": "swapped_blocks",
    "slots": "swap_buffers",
    "mapped": "mmap_weights",
    "hoist": "precompute_modulation",
    "moments": "optimizer_state",
}
"""Keys of a ``plan.json`` that an earlier version wrote -> what they are called now."""


def from_json(value: Any) -> Plan:
    """Read what :meth:`Plan.to_json` gave, or gave before its fields had their present names.

    Raises:
        ValueError: It is no plan.
    """
    if isinstance(value, dict):
        value = {EARLIER.get(key, key): entry for key, entry in value.items()}
    return TypeAdapter(Plan).validate_python(value)
