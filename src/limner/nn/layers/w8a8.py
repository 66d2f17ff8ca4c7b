"""Products of 8 bits by 8 bits with a frozen weight, and their gradient: W8A8. Opt-in, for speed.

y = x W^T with W = diag(s) Q: each row of x is scaled into 8 bits, so y = diag(r) X Q^T diag(s), where the
scales wait until after the product. The gradient of x sums over the outputs, where s cannot wait: it is
folded into the gradient first, dx = (g diag(s)) Q, whose rows are then scaled into 8 bits as those of x are.
Gradients are stored in e4m3, too: within a row their range is small, and e5m2 rounds twice as coarsely.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from limner.errors import BadRecipe
from limner.nn.layers.precision import CAPABLE, Kind
from limner.nn.layers.quantization import in_rows

FEWEST = 16
"""Rows up to which the product with the full weight is used: integer kernels want more, and gain nothing."""
SIDES = 16
"""What both sides of a weight must be multiples of, for the kernels of the devices."""


def require(kind: Kind, device: torch.device) -> None:
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


def product(x: Tensor, codes: Tensor, scale: Tensor, *, kind: Kind) -> Tensor:
    """Multiply x (M, K) by the transpose of the stored weight (N, K): (M, N) in the dtype of x."""
    rows, row_scales = in_rows(x, kind)
    weight = _codes(codes, kind)
    return _multiply(rows, weight.t(), row_scales, scale.t(), x.dtype)


def input_gradient(gradient: Tensor, codes: Tensor, scale: Tensor, *, kind: Kind) -> Tensor:
    """The gradient (M, N) times the stored weight (N, K): (M, K) in the dtype of the gradient."""
    rows, row_scales = in_rows(gradient.float() * scale.t(), kind)
    weight = _codes(codes, kind)
    if has_kernels(gradient):  # they read the right factor column by column
        weight = weight.t().contiguous().t()
    ones = torch.ones(1, weight.shape[1], device=gradient.device)
    return _multiply(rows, weight, row_scales, ones, gradient.dtype)


def _codes(codes: Tensor, kind: Kind) -> Tensor:
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
