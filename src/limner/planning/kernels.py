"""What a device's kernels save for the backward pass and take beside it, where meta does otherwise.

On the meta device attention, RMS norm and dropout are done by other operations than on a GPU or a CPU, and
keep other tensors. Here they are replaced, for as long as a trace lasts, by functions that allocate what the
true kernels allocate and compute nothing. Autocast, which does not exist on the meta device, is imitated.

Nothing global changes: a ``TorchFunctionMode`` belongs to the thread that enters it. Other threads may train
or generate images meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from limner.nn.layers import quantization, quantized_linear
from limner.nn.memory.plan import Attention

WIDEST_HEAD = 256
"""Numbers of a head up to which flash attention has a kernel."""
HALF = (torch.bfloat16, torch.float16)


class Report(Protocol):
    """Hears of work that no operation of torch stands for."""

    def __call__(
        self,
        *,
        attention: float = 0,
        w8a8: float = 0,
        coding: float = 0,
        traffic: float = 0,
        output_bytes: float = 0,
    ) -> None:
        """FLOPs of attention and 8-bit products, bytes of coding, traffic and what attention gave.

        Of coding, torch's operations have counted the traffic already.
        """
        ...


def _silent(**work: float) -> None:
    del work


CODING = {torch.int32: (47, 30), torch.bfloat16: (39, 0)}
"""Bytes that eager kernels read and write to make the codes of a number that is multiplied in 8 bits, and to
scale one that comes out, by the precision in which products come: of int8, and of fp8."""


Kernels = Literal["cuda", "cpu"]


def imitated(
    kernels: Kernels = "cuda",
    attention: Attention = "auto",
    autocast: torch.dtype | None = None,
    report: Report = _silent,
    device: str = "meta",
) -> TorchFunctionMode:
    """A context that imitates the kernels of a device while entered, in the thread that enters it.

    Args:
        kernels: Whose. A CPU has flash attention for every precision, and no kernel for the RMS norm.
        attention: Kernel of the attention; "auto" is flash where it can be, else efficient.
        autocast: What autocast computes in, or None when it is off.
        report: Hears of the work of the imitated kernels.
        device: Type of the device whose tensors they are imitated for; all others are computed with as ever.
    """
    cast = _Cast(autocast)
    kind: Kind = "flash for cpu" if kernels == "cpu" and attention != "math" else attention
    functions: dict[Callable[..., Any], Callable[..., Any]] = {
        F.scaled_dot_product_attention: _attention(kind, cast, report)
    }
    if kernels == "cuda":
        functions |= {
            F.rms_norm: _rms_norm(cast, report),
            F.dropout: _dropout(report),
            quantization.has_kernels: lambda _: True,
            torch._int_mm: _eightfold(torch.int32, report),
            torch._scaled_mm: _eightfold(torch.bfloat16, report),
        }
    return _Imitation(functions | (_autocast(cast) if autocast else {}), device)


class _Imitation(TorchFunctionMode):
    """Calls stand-ins for functions where the first tensor among their arguments is on one device.

    Args:
        functions: Function of torch, as torch hands it to ``__torch_function__`` -> what stands for it.
        device: Type of the device.
    """

    def __init__(self, functions: Mapping[Any, Callable[..., Any]], device: str) -> None:
        super().__init__()
        self.functions, self.device = functions, device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``, or what stands for it. The mode is off meanwhile."""
        del types
        kwargs = kwargs or {}
        if func is Tensor.backward:
            with self:  # checkpoints compute their blocks again in here
                return _backward(*args, **kwargs)
        function = self.functions.get(func)
        if function is None or not self._here(args, kwargs):
            return func(*args, **kwargs)
        return function(*args, **kwargs)

    def _here(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the first tensor among some arguments is on the device."""
        values = (*args, *kwargs.values())
        tensor = next((value for value in values if isinstance(value, Tensor)), None)
        return tensor is not None and tensor.device.type == self.device


def _backward(
    tensor: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,  # noqa: FBT001  torch's own
    create_graph: bool = False,  # noqa: FBT001, FBT002  torch's own
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """``Tensor.backward`` with the modes of this thread on: torch's own turns them off before it begins."""
    gradient = torch.ones_like(tensor) if gradient is None else gradient
    retain = create_graph if retain_graph is None else retain_graph
    leaves = tuple(inputs or ())
    _engine_run_backward(
        (tensor,), (gradient,), retain, create_graph, leaves, allow_unreachable=True, accumulate_grad=True
    )


class _Cast:
    """What autocast does to the arguments of a function."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype

    def low(self, value: Any) -> Any:
        """As products want it."""
        return self._to(value, self.dtype)

    def full(self, value: Any) -> Any:
        """As sums and norms want it."""
        return self._to(value, torch.float32)

    def _to(self, value: Any, dtype: torch.dtype | None) -> Any:
        if self.dtype is None or dtype is None or not isinstance(value, Tensor):
            return value
        is_float = value.dtype in (*HALF, torch.float32)
        return value.to(dtype) if is_float and value.dtype != dtype else value


LOW = ("linear", "conv1d", "conv2d", "conv3d")
LOW_TORCH = ("matmul", "bmm", "baddbmm", "addmm", "mm")
LOW_METHODS = ("matmul", "__matmul__", "bmm", "mm")
FULL = ("layer_norm", "group_norm", "softmax", "log_softmax", "mse_loss", "softplus", "normalize")
FULL_TORCH = ("pow", "exp", "log", "rsqrt", "reciprocal", "softmax", "sum", "prod", "cumsum")
FULL_METHODS = ("pow", "__pow__", "exp", "log", "rsqrt", "softmax", "sum", "prod", "cumsum")
"""Functions that autocast runs in low and in full precision (torch, ``ATen/autocast_mode.h``), as far as the
families use them."""


def _autocast(cast: _Cast) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Stand-ins for what autocast casts the arguments of."""
    functions = {
        function: _casting(function, convert)
        for owner, names, convert in (
            (F, LOW, cast.low),
            (torch, LOW_TORCH, cast.low),
            (torch.Tensor, LOW_METHODS, cast.low),
            (F, FULL, cast.full),
            (torch, FULL_TORCH, cast.full),
            (torch.Tensor, FULL_METHODS, cast.full),
        )
        for function in (getattr(owner, name) for name in names)
    }
    arithmetic = quantized_linear.arithmetic
    return functions | {arithmetic: lambda x: cast.dtype if x.dtype == torch.float32 else x.dtype}


def _casting(function: Callable[..., Any], convert: Callable[[Any], Any]) -> Callable[..., Any]:
    def cast(*args: Any, **kwargs: Any) -> Any:
        return function(*map(convert, args), **{name: convert(value) for name, value in kwargs.items()})

    return cast


Kind = Attention | Literal["flash for cpu"]


def _attention(kind: Kind, cast: _Cast, report: Report) -> Callable[..., Tensor]:
    """Stands for ``F.scaled_dot_product_attention``: (B, H, L, D) -> (B, H, L, D)."""

    def attend(  # noqa: PLR0913  torch's own
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,  # noqa: FBT001, FBT002  torch's own
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: FBT001, FBT002  torch's own
    ) -> Tensor:
        query, key, value = map(cast.low, (query, key, value))
        kernel = _kernel_for(kind, query, attn_mask)
        if kernel == "math":
            return torch.ops.aten._scaled_dot_product_attention_math(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )[0]
        return _AttentionKernel.apply(query, key, value, attn_mask, kernel, report)  # pyright: ignore[reportReturnType]

    return attend


def _kernel_for(kind: Kind, query: Tensor, mask: Tensor | None) -> Kind:
    """The kernel that torch would take: flash wants half precision, no mask and narrow heads."""
    flash = query.dtype in HALF and mask is None and query.shape[-1] <= WIDEST_HEAD
    if kind == "auto":
        return "flash" if flash else "efficient"
    return "efficient" if kind == "flash" and not flash else kind


class _AttentionKernel(torch.autograd.Function):
    """Save-set and workspaces of ``aten::_scaled_dot_product_{flash,efficient,cudnn}_attention`` on CUDA."""

    @staticmethod
    def forward(  # noqa: PLR0913  what attention reads
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kind: str, report: Report
    ) -> Tensor:
        batch, heads, length, _ = query.shape
        out = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        rows = -(-length // 32) * 32 if kind == "efficient" else length
        log_sum = query.new_empty(batch, heads, rows, dtype=torch.float32)
        seed, offset = (query.new_empty(2, dtype=torch.int64) for _ in range(2))
        ctx.save_for_backward(query, key, value, mask, out, log_sum, seed, offset)
        ctx.kind, ctx.report = kind, report
        output_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (out, log_sum))
        report(attention=_attention_flops(query, key), output_bytes=output_bytes)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        batch, heads, length, width = query.shape
        ctx.report(attention=2.5 * _attention_flops(query, key))
        gradient = gradients[0] if gradients[0].stride(-1) == 1 else gradients[0].contiguous()
        if ctx.kind == "flash for cpu":
            gradients_out = [_like(tensor) for tensor in (query, key, value)]
            return *gradients_out, None, None, None
        if ctx.kind == "flash":  # flash_api.cpp: rows in steps of 128, numbers in steps of 32
            rows, width = -(-length // 128) * 128, -(-width // 32) * 32
        else:
            rows = length
        sums = query.new_empty(batch, heads, rows, dtype=torch.float32)
        accumulator = query.new_empty(batch, rows, heads, width, dtype=torch.float32)
        gradients_out = [_like(tensor) for tensor in (query, key, value)]
        del sums, accumulator, gradient
        return *gradients_out, None, None, None


def _like(tensor: Tensor) -> Tensor:
    """Room for a gradient, heads inside, as the kernels lay it out."""
    batch, heads, length, width = tensor.shape
    return tensor.new_empty(batch, length, heads, width).transpose(1, 2)


def _attention_flops(query: Tensor, key: Tensor) -> float:
    """FLOPs of the two products of attention, forward."""
    batch, heads, length, width = query.shape
    return 4.0 * batch * heads * length * key.shape[-2] * width


def _rms_norm(cast: _Cast, report: Report) -> Callable[..., Tensor]:
    """Stands for ``F.rms_norm``, which is one kernel where weight and input are of one precision."""
    composite = F.rms_norm

    def rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: Any = None) -> Tensor:
        x, weight = cast.full(x), cast.full(weight)
        if weight is not None and weight.dtype != x.dtype:
            return composite(x, normalized_shape, weight, eps)
        return _RmsNorm.apply(x, weight, report)  # pyright: ignore[reportReturnType]

    return rms_norm


class _RmsNorm(torch.autograd.Function):
    """``aten::_fused_rms_norm`` on CUDA: keeps its input and one fp32 number for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, report: Report) -> Tensor:
        rows = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        ctx.save_for_backward(x, weight, rows)
        ctx.report = report
        report(traffic=2.0 * x.numel() * x.element_size())
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _ = ctx.saved_tensors
        ctx.report(traffic=3.0 * x.numel() * x.element_size())
        gradient = gradients[0] if gradients[0].is_contiguous() else gradients[0].contiguous()
        gradients_out = torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        del gradient
        return *gradients_out, None


def _eightfold(dtype: torch.dtype, report: Report) -> Callable[..., Tensor]:
    """Stands for ``aten::_int_mm`` and ``aten::_scaled_mm`` on CUDA: (M, K) by (K, N) gives (M, N)."""

    def multiply(a: Tensor, b: Tensor, **_: Any) -> Tensor:
        (rows, inner), columns = a.shape, b.shape[1]
        input_bytes, output_bytes = CODING[dtype]
        report(
            w8a8=2.0 * rows * inner * columns,
            coding=float(rows * (input_bytes * inner + output_bytes * columns)),
        )
        return a.new_empty((rows, columns), dtype=dtype)

    return multiply


def _dropout(report: Report) -> Callable[..., Tensor]:
    """Stands for ``F.dropout``."""

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: FBT001, FBT002
        del inplace
        return _Dropout.apply(x, report) if p and training else x  # pyright: ignore[reportReturnType]

    return dropout


class _Dropout(torch.autograd.Function):
    """``aten::native_dropout`` on CUDA: keeps one byte for each number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, report: Report) -> Tensor:
        ctx.save_for_backward(torch.empty_like(x, dtype=torch.bool))
        ctx.report = report
        report(traffic=2.0 * x.numel() * x.element_size())
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # a checkpoint counts on its being read
        ctx.report(traffic=2.0 * gradients[0].numel() * gradients[0].element_size())
        return torch.empty_like(gradients[0]), None
