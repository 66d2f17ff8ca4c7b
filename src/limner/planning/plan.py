"""How a run is computed, never what it computes. No torch: a plan is made on one machine for another."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from limner.nn.layers.precision import Products

Kind = Literal["cuda", "cpu", "mps"]
"""Sorts of devices, as torch names them."""
Compute = Literal["fp32", "bf16"]
Weights = Literal["fp32", "bf16", "int8", "fp8", "nf4"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math"]
Moments = Literal["fp32", "8bit", "host"]

BITS: dict[Weights, int] = {"fp32": 32, "bf16": 16, "int8": 8, "fp8": 8, "nf4": 4}
"""Of a stored weight, scales left aside: what ``limits.weights_precision`` is compared with."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides memory and speed of training. The defaults are the plain way."""

    compute: Compute = "fp32"
    """Precision of the arithmetic, and of frozen weights that ``weights`` does not speak of."""
    weights: Weights = "fp32"
    """How the frozen linear layers inside the denoiser's blocks are stored."""
    products: Products = "full"
    """How those layers multiply: by weights in full precision again, or 8 bits by 8 bits."""
    checkpointed: int = 0
    """The first so many blocks are computed again in the backward pass instead of kept."""
    tail_skip: bool = True
    """The recomputation leaves out what no gradient reads: the last linear layer of a block. Exact."""
    keep_attention: bool = False
    """Checkpointed blocks keep what their attention gave, so that it is not computed twice."""
    streamed: int = 0
    """So many blocks, spread evenly, keep their frozen weights in host memory and come when they are due."""
    slots: int = 2
    """Blocks' worth of device memory that streamed blocks share, at least 2."""
    mapped: bool = False
    """Streamed weights stay on disk, mapped, because host memory is short."""
    hoist: bool = False
    """Modulations read one vector per image: computed once per step, their weights kept off the device."""
    micro_batch: int = 1
    """Images that pass through the device at once."""
    moments: Moments = "fp32"
    """How the optimizer stores its state; host: in fp32 in the host's memory, with the masters and gradients
    of a full fine-tune, of which the device has a copy to compute with."""
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

    def streamed_of(self, blocks: int) -> tuple[int, ...]:
        """Which of so many blocks are streamed: spread evenly, so that copies hide behind computation."""
        count = min(self.streamed, blocks)
        return tuple(number * blocks // count for number in range(count))

    @property
    def codes(self) -> Literal["int8", "fp8", "nf4"] | None:
        """How weights are stored where that is not in full."""
        return None if self.weights in ("fp32", "bf16") else self.weights

    def to_json(self) -> dict[str, Any]:
        """What ``plan.json`` holds of it."""
        return asdict(self)


def from_json(value: Any) -> Plan:
    """Read what :meth:`Plan.to_json` gave.

    Raises:
        ValueError: It is no plan.
    """
    return TypeAdapter(Plan).validate_python(value)
