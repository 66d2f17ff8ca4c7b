"""How many bytes a frozen weight takes, by how it is stored. No torch: plans are made of these numbers."""

from typing import Literal

Kind = Literal["int8", "fp8", "nf4"]
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


def coding_bytes(kind: Kind, numbers: int) -> int:
    """Bytes that making the codes of a weight takes beside weight and codes, the scales of rows left aside.

    Two copies in fp32 of what is coded at once, in NF4 three, and there four of the scales of blocks. Where
    files hold fp32 it is one copy less.
    """
    if kind == "nf4":
        blocks = -(-numbers // BLOCK)
        return 12 * min(blocks * BLOCK, CHUNK) + 16 * GROUP * -(-blocks // GROUP)
    return 8 * min(numbers, CHUNK)
