"""Weights in 8 and 4 bits, and back: int8 and fp8 with a scale per output, NF4 in blocks of 64 numbers; W8A8.

NF4 is laid out as bitsandbytes lays it out, so that its kernels read the same bytes: two numbers to a byte,
the first in the high half. The scales of the blocks are themselves kept in 8 bits (QLoRA, section 3).

W8A8 multiplies 8 bits by 8 bits with a frozen weight, and so in its gradient. Opt-in, for speed. y = x W^T
with W = diag(s) Q: each row of x is scaled into 8 bits, so y = diag(r) X Q^T diag(s), where the scales wait
until after the product. The gradient of x sums over the outputs, where s cannot wait: it is folded into the
gradient first, dx = (g diag(s)) Q, whose rows are then scaled into 8 bits as those of x are. Gradients are
stored in e4m3, too: within a row their range is small, and e5m2 rounds twice as coarsely.
"""

import importlib
import importlib.util
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from limner.errors import BadRecipe
from limner.nn.memory.plan import BLOCK, CAPABLE, CHUNK, GROUP, QuantKind

Stored = tuple[Tensor, ...]
"""int8: (N, K) int8, (N, 1) float32. fp8: (N, K) uint8, the bits of e4m3; (N, 1) float32.
nf4: (B * 32,) uint8, two numbers each; (B,) uint8, their scales; (G, 2) float32, the scales' least and step,
with B blocks of 64 numbers in groups G of 256 blocks. Bytes, so that no change of precision touches them."""
Kernels = Literal["torch", "bitsandbytes"]
"""What turns NF4 into numbers. Both read the same bytes."""

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""Of the numbers in a row of 8 bits."""
DEQUANTIZED_NUMBERS = 1 << 22
"""Numbers that are turned back at once by torch's kernels: fewer would have a GPU wait for its launches."""

# Quantiles of the normal distribution, one of them zero, scaled to [-1, 1]: QLoRA, appendix E.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def empty(kind: QuantKind, rows: int, columns: int, device: torch.device | str) -> Stored:
    """Room for a weight (rows, columns): what :func:`quantize` fills."""
    if kind == "nf4":
        blocks = -(-rows * columns // BLOCK)
        shapes = ((blocks * BLOCK // 2,), (blocks,), (-(-blocks // GROUP), 2))
        kinds = (torch.uint8, torch.uint8, torch.float32)
    else:
        shapes = ((rows, columns), (rows, 1))
        kinds = (torch.int8 if kind == "int8" else torch.uint8, torch.float32)
    return tuple(torch.empty(s, dtype=d, device=device) for s, d in zip(shapes, kinds, strict=True))


@torch.no_grad()
def quantize(weight: Tensor, kind: QuantKind) -> Stored:
    """Store a weight (N, K) of any floating dtype, on its device. A weight without data stays without.

    Raises:
        ValueError: It holds numbers that are not finite.
    """
    rows, columns = weight.shape
    codes = empty(kind, rows, columns, weight.device)
    if weight.is_meta:
        return codes
    if kind == "nf4":
        _fill_blocks(weight, *codes)
    else:
        _fill_rows(weight, kind, *codes)
    if not codes[-1].isfinite().all():
        raise ValueError("a weight holds numbers that are not finite")
    return codes


def _fill_rows(weight: Tensor, kind: QuantKind, codes: Tensor, scale: Tensor) -> None:
    rows = max(1, CHUNK // weight.shape[1])
    for start in range(0, len(weight), rows):
        chunk = slice(start, start + rows)
        numbers, scales = in_rows(weight[chunk], kind)
        codes[chunk] = numbers.view(codes.dtype)
        scale[chunk] = scales
        del numbers, scales  # or they are there beside the next


def in_rows(matrix: Tensor, kind: QuantKind) -> tuple[Tensor, Tensor]:
    """(M, K) as int8 or float8_e4m3fn, and the scale (M, 1), float32, of each row."""
    full = matrix.float()
    scale = full.abs().amax(dim=1, keepdim=True) / LARGEST[kind]
    scale.masked_fill_(scale == 0, 1.0)
    full = full / scale
    if kind == "int8":
        return full.round_().clamp_(-127, 127).to(torch.int8), scale
    return full.clamp_(-LARGEST[kind], LARGEST[kind]).to(torch.float8_e4m3fn), scale


def _fill_blocks(weight: Tensor, codes: Tensor, scale: Tensor, span: Tensor) -> None:
    flat = weight.reshape(-1)
    code = torch.tensor(NF4, device=weight.device)
    bounds = (code[1:] + code[:-1]) / 2
    magnitudes = torch.empty(len(scale), device=weight.device)
    for start in range(0, len(flat), CHUNK):
        largest = magnitudes[start // BLOCK : (start + CHUNK) // BLOCK]
        halves = _in_halves(flat[start : start + CHUNK], bounds, largest)
        codes[start // 2 : start // 2 + len(halves)] = halves
        del halves  # or they are there beside the next
    padding = -len(magnitudes) % GROUP
    groups = torch.cat([magnitudes, magnitudes[-1:].expand(padding)]).view(-1, GROUP)
    low = groups.amin(dim=1, keepdim=True)
    step = (groups.amax(dim=1, keepdim=True) - low) / 255
    span[:] = torch.cat([low, step], dim=1)
    steps = ((groups - low) / step.masked_fill(step == 0, 1.0)).round_().clamp_(0, 255)
    scale[:] = steps.view(-1)[: len(scale)].to(torch.uint8)


def _in_halves(numbers: Tensor, bounds: Tensor, largest: Tensor) -> Tensor:
    """Codes of some numbers, two to a byte; ``largest`` gets the largest magnitude of each block of them."""
    blocks = F.pad(numbers.float(), (0, -len(numbers) % BLOCK)).view(-1, BLOCK)
    largest.copy_(blocks.abs().amax(dim=1))
    indices = torch.bucketize(blocks * (1 / largest.clamp(min=1e-38))[:, None], bounds, out_int32=True)
    halves = indices.to(torch.uint8).view(-1, 2)
    return halves[:, 0] << 4 | halves[:, 1]


def dequantize(
    codes: Stored, kind: QuantKind, shape: tuple[int, int], dtype: torch.dtype, kernels: Kernels = "torch"
) -> Tensor:
    """The weight (N, K) in ``dtype``: code times scale, computed in float32 and rounded once."""
    match kind:
        case "int8" if codes[0].is_cpu:  # where one kernel would make temporary copies
            return codes[0].to(dtype).mul_(codes[1])
        case "int8":  # one kernel, which reads a byte and writes a number
            return torch.mul(codes[0], codes[1], out=codes[0].new_empty(codes[0].shape, dtype=dtype))
        case "fp8":
            return codes[0].view(torch.float8_e4m3fn).to(dtype).mul_(codes[1])
    magnitudes = _scales(*codes[1:])
    if kernels == "bitsandbytes":
        operator: Any = torch.ops.bitsandbytes.dequantize_4bit
        return operator(codes[0], magnitudes, BLOCK, "nf4", shape, dtype)
    weight = torch.empty(len(magnitudes), BLOCK, dtype=dtype, device=magnitudes.device)
    pairs = _pairs(magnitudes.device)
    for start in range(0, len(magnitudes), DEQUANTIZED_NUMBERS // BLOCK):
        chunk = slice(start, start + DEQUANTIZED_NUMBERS // BLOCK)
        numbers = F.embedding(codes[0].view(-1, BLOCK // 2)[chunk].to(torch.int32), pairs)
        weight[chunk] = numbers.view(-1, BLOCK).mul_(magnitudes[chunk, None])
    return weight.view(-1)[: shape[0] * shape[1]].view(shape)


def _scales(scale: Tensor, span: Tensor) -> Tensor:
    """The largest magnitude of each block, (B,) float32."""
    low, step = span[:, None].expand(-1, GROUP, -1).reshape(-1, 2)[: len(scale)].unbind(1)
    return torch.addcmul(low, scale.float(), step)


@cache
def _pairs(device: torch.device) -> Tensor:
    """(256, 2): the two numbers in a byte."""
    code = torch.tensor(NF4, device=device)
    return torch.stack([code.repeat_interleave(16), code.repeat(16)], dim=1)


def kernels_for(device: torch.device) -> Kernels:
    """The faster way to read NF4 that there is for a device."""
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        return "torch"
    importlib.import_module("bitsandbytes")  # registers its operators with torch
    return "bitsandbytes"


FEWEST = 16
"""Rows up to which the product with the full weight is used: integer kernels want more, and gain nothing."""
SIDES = 16
"""What both sides of a weight must be multiples of, for the kernels of the devices."""


def require(kind: QuantKind, device: torch.device) -> None:
    """Raise ``BadRecipe`` where 8 bits cannot be multiplied: CPUs do the same algebra in float32."""
    if kind == "nf4":
        raise BadRecipe("Weights in nf4 cannot be multiplied in 8 bits. Store them in int8 or fp8.")
    if device.type == "cuda" and torch.version.hip:
        raise BadRecipe(
            "Products in 8 bits are for GPUs of NVIDIA: others read fp8 of another format. "
            "Leave the products in full precision."
        )
    if device.type == "cuda" and (sm := torch.cuda.get_device_capability(device)) < CAPABLE[kind]:
        raise BadRecipe(
            f"This GPU (compute capability {sm[0]}.{sm[1]}) does not multiply {kind}, which needs "
            f"{CAPABLE[kind][0]}.{CAPABLE[kind][1]}. Leave the products in full precision."
        )
    if device.type == "mps":
        raise BadRecipe("This device does not multiply in 8 bits. Leave the products in full precision.")


def product(x: Tensor, codes: Tensor, scale: Tensor, *, kind: QuantKind) -> Tensor:
    """Multiply x (M, K) by the transpose of the stored weight (N, K): (M, N) in the dtype of x."""
    rows, row_scales = in_rows(x, kind)
    weight = _codes(codes, kind)
    return _multiply(rows, weight.t(), row_scales, scale.t(), x.dtype)


def input_gradient(gradient: Tensor, codes: Tensor, scale: Tensor, *, kind: QuantKind) -> Tensor:
    """The gradient (M, N) times the stored weight (N, K): (M, K) in the dtype of the gradient."""
    rows, row_scales = in_rows(gradient.float() * scale.t(), kind)
    weight = _codes(codes, kind)
    if has_kernels(gradient):  # they read the right factor column by column
        weight = weight.t().contiguous().t()
    ones = torch.ones(1, weight.shape[1], device=gradient.device)
    return _multiply(rows, weight, row_scales, ones, gradient.dtype)


def _codes(codes: Tensor, kind: QuantKind) -> Tensor:
    return codes if kind == "int8" else codes.view(torch.float8_e4m3fn)


def _multiply(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """diag(rows) left right diag(columns): on CUDA by its 8-bit kernels, elsewhere in float32."""
    if not has_kernels(left) or any(side % SIDES for side in right.shape):
        return (left.float() @ right.float()).mul_(rows).mul_(columns).to(dtype)
    if left.dtype == torch.int8:
        return whole(left, right).float().mul_(rows).mul_(columns).to(dtype)
    return scaled(left, right, rows, columns).to(dtype)


def has_kernels(tensor: Tensor) -> bool:
    """Whether the device of a tensor multiplies 8 bits by 8 bits itself.

    A ``TorchFunctionMode`` may stand in for it, as the planner's imitation of a GPU does.
    """
    if has_torch_function_unary(tensor):
        return handle_torch_function(has_kernels, (tensor,), tensor)
    return tensor.is_cuda


def whole(left: Tensor, right: Tensor) -> Tensor:
    """int8 (M, K) by (K, N): (M, N) int32."""
    return torch._int_mm(left, right)


def scaled(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """diag(rows) (M, K) by (K, N) diag(columns), both e4m3: (M, N) bf16, as by rows it gives nothing else."""
    multiply: Any = torch._scaled_mm
    return multiply(left, right, scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16)
