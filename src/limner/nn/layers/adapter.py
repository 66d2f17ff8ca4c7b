"""Adapters: a frozen layer, and what is trained beside it. And the plain one, LoRA, on layers of both sorts.

LoRA is of Hu et al. 2021, arXiv:2106.09685; on convolutions, LoCon, of Yeh et al. 2024, arXiv:2309.14859.

A kind of adapter is a class or two with one :class:`AdapterKind`, and a line in ``kinds.kind_of``. What it
trains, how it begins, what it computes, and what files call its factors stand there alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from limner.nn.layers.quantized_linear import QuantizedLinear
from limner.nn.rng import PlacedDropout


@dataclass(frozen=True)
class FactorName:
    """What a trained factor is called outside its layer."""

    saved: str
    """In checkpoints."""
    ending: str
    """In LoRA files: the part of a module, as ``limner.lora.keys`` reads it."""
    rank_axis: int | None = None
    """The axis that is as long as the rank; None: no axis is."""


PAIR = {
    "down": FactorName("lora_A.default.weight", "down", 0),
    "up": FactorName("lora_B.default.weight", "up", 1),
}
"""The factors, in checkpoints by peft's names, as they always have been."""


@dataclass(frozen=True)
class AdapterShape:
    """How large an adapter is, and how strong."""

    rank: int
    """At least 1."""
    scale: float
    """alpha / rank."""


class Adapter(nn.Module, ABC):
    """A frozen layer, and what is trained beside it. The factors are fp32 masters.

    The arithmetic is that of the layer's output. For its gradient an adapter keeps its input, which all the
    layers that read it share, and never a copy of it or a matrix of the weight's size.

    Args:
        base: ``nn.Linear``, ``QuantizedLinear``, ``nn.Conv2d`` of one group padded with zeros, or whatever
            takes its place; is called as a module.
        shape: How large.
        dropout: On what the factors read; knows when it is on.
    """

    names: ClassVar[Mapping[str, FactorName]] = {}
    """Attribute -> its names outside; an adapter may lack some of them."""
    scaled_factor: ClassVar[str] = ""
    """The ending of the factor that the scale is multiplied into where files are written."""
    reads_weight: ClassVar[bool] = False
    """Whether more than the layer's output is asked of the frozen layer, so that it cannot be away."""

    def __init__(self, base: nn.Module, shape: AdapterShape, dropout: nn.Module) -> None:
        """See the class."""
        super().__init__()
        self.base: nn.Module = base
        self.full_scale, self.dropout = shape.scale, dropout
        self.enabled = True
        self.sign = 1.0
        """-1: the change is taken the other way, as a slider is trained at both ends."""
        if isinstance(base, nn.Conv2d):
            self.in_features, self.out_features = base.in_channels, base.out_channels
            self.kernel: tuple[int, ...] = tuple(base.kernel_size)
            self.geometry: tuple[Any, ...] = (base.stride, base.padding, base.dilation)
        else:
            assert isinstance(base, nn.Linear | QuantizedLinear)
            self.in_features, self.out_features = base.in_features, base.out_features
            self.kernel, self.geometry = (), ()

    def factor(self, *shape: int) -> nn.Parameter:
        """A factor of zeros, where the frozen layer is."""
        device = next(chain(self.base.parameters(), self.base.buffers())).device
        return nn.Parameter(torch.zeros(*shape, device=device))

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return self.full_scale * self.sign

    @property
    def weight(self) -> Tensor:
        """That of the layer beneath: some models ask a layer for its dtype."""
        return self.base.weight  # pyright: ignore[reportReturnType]

    @property
    def columns(self) -> int:
        """Of the weight, its kernel laid flat."""
        return self.in_features * (self.kernel[0] * self.kernel[1] if self.kernel else 1)

    @property
    def is_dropping(self) -> bool:
        """Whether the factors read an input of their own."""
        return isinstance(self.dropout, PlacedDropout) and self.dropout.training

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) of a linear layer, (B, C, H, W) -> (B, C', H', W') of a convolution."""
        y = self.base(x)
        return self.adapted(x, y) if self.enabled else y

    @abstractmethod
    def adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """What becomes of the base's output y, of input x."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> None:
        """Give the factors their first values, with which the layer gives what its base gives."""

    def factors(self) -> dict[str, nn.Parameter]:
        """Attribute -> factor, of those that are there."""
        present = {name: getattr(self, name, None) for name in self.names}
        return {name: factor for name, factor in present.items() if isinstance(factor, nn.Parameter)}

    def exported(self) -> dict[str, Tensor]:
        """Ending in LoRA files -> float32 copy on the CPU, the scale multiplied in."""
        tensors = {}
        for name, factor in self.factors().items():
            ending = self.names[name].ending
            tensor = factor.detach().to("cpu", torch.float32, copy=True)
            tensors[ending] = tensor * self.scale if ending == self.scaled_factor else tensor
        return tensors

    def blank(self) -> dict[str, Tensor]:
        """The same of rank 1, zeros that take no memory: what asks whether a file can hold it."""
        zero = torch.zeros(1)
        shapes = {name: list(factor.shape) for name, factor in self.factors().items()}
        for name, shape in shapes.items():
            if (axis := self.names[name].rank_axis) is not None:
                shape[axis] = 1
        return {
            self.names[name].ending: zero.view([1] * len(shape)).expand(shape)
            for name, shape in shapes.items()
        }

    def extra_repr(self) -> str:
        """For people."""
        sizes = ", ".join(f"{name} {tuple(factor.shape)}" for name, factor in self.factors().items())
        return f"{sizes}, scale={self.scale:g}"


class RecomputedAdapter(Adapter):
    """An adapter whose change of the output is computed again for its gradient, as steps of it are large."""

    def adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """Y and the change, which is computed again for its gradient."""
        parts = (self.dropout(x.to(y.dtype)), *self.factors().values())
        if torch.is_grad_enabled():
            change = checkpoint(self.change, *parts, use_reentrant=False, preserve_rng_state=False)
        else:
            change = self.change(*parts)
        assert isinstance(change, Tensor)
        return torch.add(y, change, alpha=self.scale)

    @abstractmethod
    def change(self, x: Tensor, *factors: Tensor) -> Tensor:
        """What the factors, in the order of :meth:`factors`, make of the input, less the scale."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x`` through a weight (out, in * height * width): the layer's own operation."""
        if not self.kernel:
            return F.linear(x, weight)
        kernel = weight.view(len(weight), -1, *self.kernel)
        return F.conv2d(x, kernel, None, *self.geometry)


@dataclass(frozen=True)
class AdapterKind:
    """A kind of adapter."""

    linear: Callable[[nn.Module, AdapterShape, nn.Module], Adapter]
    """What goes on linear layers: of the layer, the shape and the dropout."""
    convolution: Callable[[nn.Module, AdapterShape, nn.Module], Adapter]
    """What goes on convolutions."""


def uniform(factor: Tensor, generator: torch.Generator, inputs: int) -> None:
    """Draw as ``nn.Linear`` and ``nn.Conv2d`` of so many inputs are drawn."""
    width = 1 / math.sqrt(inputs)
    factor.copy_(torch.rand(factor.shape, generator=generator).mul_(2 * width).sub_(width))


def normal(factor: Tensor, generator: torch.Generator, deviation: float) -> None:
    """Draw from a normal distribution around 0."""
    factor.copy_(torch.randn(factor.shape, generator=generator).mul_(deviation))


def plain(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that :class:`LowRankConv` takes."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"


def wide(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with a kernel larger than 1 x 1."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


class LowRank(Adapter):
    """y = W x + scale * U (D x): a frozen linear layer and the pair that is trained beside it.

    For its gradient the pair keeps D x, and x itself: one tensor for all the layers that read it. Only
    autocast makes it a copy. Where ``readers`` is set, D x comes from there, unless dropout gives each pair
    an input of its own.
    """

    names = PAIR
    scaled_factor = "up"

    def __init__(self, base: nn.Module, shape: AdapterShape, dropout: nn.Module) -> None:
        """See the class. The factors are zero."""
        super().__init__(base, shape, dropout)
        self.down = self.factor(shape.rank, self.in_features)
        self.up = self.factor(self.out_features, shape.rank)
        self.readers: Readers | None = None

    def draw(self, generator: torch.Generator) -> None:
        """D as linear layers are drawn; U stays zero."""
        uniform(self.down.data, generator, self.in_features)

    def adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """Y + scale * U (D x)."""
        return torch.addmm(*self.parts(x, y), alpha=self.scale).view(y.shape)

    def parts(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The base's output, D x and U, laid flat: (tokens, out), (tokens, rank), (rank, out)."""
        if self.readers is None or self.is_dropping:
            inner = F.linear(self.dropout(x.to(y.dtype)), self.down.to(y.dtype))
        else:
            inner = self.readers.inner(self, x, y.dtype)
        flat = y.reshape(-1, self.out_features), inner.reshape(-1, len(self.down))
        return *flat, self.up.to(y.dtype).t()


FUSED = (
    ("to_q", "to_k", "to_v"),
    ("add_q_proj", "add_k_proj", "add_v_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("q", "k", "v"),
)
"""Layers of one attention that read one tensor: diffusers' names, those of CLIP and Qwen, those of T5."""


class Readers:
    """Pairs that read one tensor: their D x are one product, made by the first and freed by the last.

    Not the same to the bit as a product for each: of other shapes, kernels sum in another order. In fp32 the
    gradients are within 1e-6 of those; what is recomputed or streamed is the same to the bit as ever. A pair
    that is given another tensor than the one before it costs time, and changes nothing.
    """

    def __init__(self, pairs: Sequence[LowRank]) -> None:
        """See the class."""
        self.pairs = list(pairs)
        self.forget()

    def forget(self) -> None:
        """Let go of what no pair came for: a step that failed half way leaves it."""
        self.input: Tensor | None = None
        self.outputs: list[Tensor | None] = [None] * len(self.pairs)

    def inner(self, pair: LowRank, x: Tensor, dtype: torch.dtype) -> Tensor:
        """D x of one of the pairs, (..., rank)."""
        index = next(number for number, reader in enumerate(self.pairs) if reader is pair)
        if self.input is not x or self.outputs[index] is None:
            down = torch.cat([reader.down for reader in self.pairs]).to(dtype)
            ranks = [len(reader.down) for reader in self.pairs]
            self.input, self.outputs = x, list(F.linear(x.to(dtype), down).split(ranks, dim=-1))
        output = self.outputs[index]
        self.outputs[index] = None
        if all(reader is None for reader in self.outputs):
            self.input = None
        assert output is not None
        return output


class LowRankConv(Adapter):
    """y = W * x + scale * U (D * x): a frozen convolution and the pair that is trained beside it.

    D has the kernel, the stride and the padding of W and as many channels as the rank; U is 1 x 1. Otherwise
    as :class:`LowRank`.
    """

    names = PAIR
    scaled_factor = "up"

    def __init__(self, base: nn.Module, shape: AdapterShape, dropout: nn.Module) -> None:
        """See the class. The factors are zero."""
        super().__init__(base, shape, dropout)
        self.down = self.factor(shape.rank, self.in_features, *self.kernel)
        self.up = self.factor(self.out_features, shape.rank, 1, 1)

    def draw(self, generator: torch.Generator) -> None:
        """D as convolutions are drawn; U stays zero."""
        uniform(self.down.data, generator, self.columns)

    def adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """Y + scale * U (D * x)."""
        return torch.add(y, self.change(x, y), alpha=self.scale)

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """U (D * x), in the precision of the base's output."""
        inner = F.conv2d(self.dropout(x.to(y.dtype)), self.down.to(y.dtype), None, *self.geometry)
        return F.conv2d(inner, self.up.to(y.dtype))


LORA = AdapterKind(linear=LowRank, convolution=LowRankConv)
"""LoRA, on convolutions LoCon."""
