"""Linear layers that are not trained: stored in 8 or 4 bits, computed in the precision of their input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from limner.errors import BrokenGraph
from limner.nn.arch import ArchSpec, matching
from limner.nn.layers import quantization
from limner.nn.layers.quantization import Kernels, Stored, dequantize, quantize
from limner.nn.memory.plan import Products, QuantKind

NAMES = ("stored", "scale", "span")


class QuantizedLinear(nn.Module):
    """y = x W^T + b with W in few bits. In training it keeps W as it is stored: neither x nor W in full.

    W is turned into numbers for each product, forward and backward. The arithmetic is that of autocast where
    it is on, else that of x.

    Args:
        codes: What ``quantization.quantize`` gave of W.
        kind: How.
        shape: (out, in) of W.
        bias: (out,), or None.
        products: How to multiply.
        kernels: What reads NF4.
    """

    stored: Tensor
    scale: Tensor
    span: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        codes: Stored,
        kind: QuantKind,
        shape: tuple[int, int],
        bias: Tensor | None,
        *,
        products: Products = "full",
        kernels: Kernels = "torch",
    ) -> None:
        """See the class."""
        super().__init__()
        self.kind: QuantKind = kind
        self.products: Products = products
        self.kernels: Kernels = kernels
        self.out_features, self.in_features = shape
        for name, tensor in zip(NAMES, codes, strict=False):
            self.register_buffer(name, tensor)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def tensors(self) -> Stored:
        """The weight as it is stored, where it lies now."""
        return tuple(self._buffers[name] for name in NAMES if name in self._buffers)  # pyright: ignore[reportReturnType]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight."""
        return self.out_features, self.in_features

    def hold(self, codes: Stored) -> None:
        """Take another weight of the same shape, stored in the same way."""
        for name, tensor in zip(NAMES, codes, strict=False):
            setattr(self, name, tensor)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) in ``dtype``: a new tensor."""
        return dequantize(self.tensors, self.kind, self.shape, dtype, self.kernels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        dtype = arithmetic(x)
        bias = None if self.bias is None else self.bias.to(dtype)
        layout = (self.kind, self.shape, self.kernels)
        eightfold = self.products == "8bit" and x.numel() // self.in_features > quantization.FEWEST
        return (_W8A8Linear if eightfold else _Full).apply(x.to(dtype), bias, layout, *self.tensors)  # pyright: ignore[reportReturnType]

    def extra_repr(self) -> str:
        """For people."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self.kind}, {self.products}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "QuantizedLinear":  # noqa: FBT001, FBT002  torch's own
        exact = {name: tensor.dtype for name, tensor in zip(NAMES, self.tensors, strict=False)}
        super()._apply(fn, recurse)
        if any(self._buffers[name].dtype != dtype for name, dtype in exact.items()):  # pyright: ignore[reportOptionalMemberAccess]
            raise BrokenGraph(
                f"The scales of a layer stored in {self.kind} were cast, which would move its weights. "
                "Choose the precision before the layers are quantised."
            )
        return self


def arithmetic(x: Tensor) -> torch.dtype:
    """What a linear layer computes in: autocast's dtype where it is on, else that of its input.

    A ``TorchFunctionMode`` may stand in for it, as the planner's imitation of autocast does.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(arithmetic, (x,), x)
    kind = x.device.type
    usable = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if usable else x.dtype


class _Full(torch.autograd.Function):
    """The product with the weight in full, which is not kept: it is made again for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layout: tuple[Any, ...], *codes: Tensor) -> Tensor:
        ctx.save_for_backward(*codes)
        ctx.layout = layout
        kind, shape, kernels = layout
        if not x.numel():
            return x.new_empty(*x.shape[:-1], shape[0])
        return F.linear(x, dequantize(codes, kind, shape, x.dtype, kernels), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        codes = ctx.saved_tensors  # once: a checkpoint unpacks each but one time
        kind, shape, kernels = ctx.layout
        weight = dequantize(codes, kind, shape, gradient.dtype, kernels)
        return gradient @ weight, *[None] * (2 + len(codes))


class _W8A8Linear(torch.autograd.Function):
    """The same with both factors in 8 bits, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layout: tuple[Any, ...], *codes: Tensor) -> Tensor:
        ctx.save_for_backward(*codes)
        ctx.layout = layout
        output = quantization.product(x.flatten(0, -2), *codes, kind=layout[0])
        output = output if bias is None else output.add_(bias)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        codes = ctx.saved_tensors
        output = quantization.input_gradient(gradient.flatten(0, -2), *codes, kind=ctx.layout[0])
        return output.view(*gradient.shape[:-1], -1), *[None] * (2 + len(codes))


def storable(model: nn.Module, arch: ArchSpec, *, modulations: bool = False) -> list[str]:
    """Names of the linear layers inside a model's blocks that a plan stores.

    Layers outside the blocks are few, and most sensitive; modulations can be kept off the device in full, so
    they are left out unless ``modulations`` says otherwise.
    """
    left_out = {} if modulations else matching(model, arch.modulations)
    return [
        f"{block}.{name}"
        for block, module in arch.blocks_of(model).items()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and f"{block}.{name}" not in left_out
    ]


def freeze(
    model: nn.Module,
    names: Sequence[str],
    kind: QuantKind,
    *,
    products: Products = "full",
    kernels: Kernels = "torch",
) -> None:
    """Replace the named linear layers of ``model`` by frozen ones, in place; on any device, meta too.

    A name may be that of a layer with an adapter: its ``base`` is replaced. ``nn.Linear`` that are gone free
    their weights one by one.

    Raises:
        BrokenGraph: A name is no linear layer, is trained, or holds numbers that are not finite.
        BadRecipe: The device cannot multiply in 8 bits.
    """
    for name in names:
        owner, attribute, layer = _find(model, name)
        if layer.weight.requires_grad:
            raise BrokenGraph(f"{name} is trained, and a weight in {kind} cannot be. Freeze the others only.")
        if products == "8bit":
            quantization.require(kind, layer.weight.device)
        try:
            codes = quantize(layer.weight, kind)
        except ValueError as error:
            raise BrokenGraph(f"{name}: {error}, so it cannot be stored in {kind}.") from error
        shape = (layer.out_features, layer.in_features)
        frozen = QuantizedLinear(codes, kind, shape, layer.bias, products=products, kernels=kernels)
        setattr(owner, attribute, frozen)


def _find(model: nn.Module, name: str) -> tuple[nn.Module, str, nn.Linear]:
    """The module that holds a linear layer, under which name, and the layer."""
    parent, _, attribute = name.rpartition(".")
    owner = model.get_submodule(parent)
    layer = owner.get_submodule(attribute)
    if "base" in dict(layer.named_children()):
        owner, attribute, layer = layer, "base", layer.get_submodule("base")
    if not isinstance(layer, nn.Linear):
        raise BrokenGraph(f"{name} is a {type(layer).__name__}. Only linear layers are stored in few bits.")
    return owner, attribute, layer
