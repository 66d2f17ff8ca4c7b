"""A LoRA of its own for every sample of a batch: what a predictor makes is applied here, not trained here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from limner.errors import BrokenGraph
from limner.nn.layers.quantized_linear import QuantizedLinear

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Layer -> A (S, rank, in) and B (S, out, rank), one pair for each of S styles."""


class PerSample(nn.Module):
    """y = W x + B (A x): a frozen linear layer, and factors that come from outside and differ by sample.

    Rows of a batch belong to styles in equal runs: of N rows and S styles, the first N / S are the first
    style's. The pair's arithmetic is that of the layer's output, gradients go into the factors.

    Args:
        base: ``nn.Linear`` or ``QuantizedLinear``; is called as a module.
    """

    def __init__(self, base: nn.Linear | QuantizedLinear) -> None:
        """See the class. No factors are bound."""
        super().__init__()
        self.base: nn.Module = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.factors: tuple[Tensor, Tensor] | None = None
        self.enabled = True

    @property
    def weight(self) -> Tensor:
        """That of the layer beneath: some models ask a layer for its dtype."""
        return self.base.weight  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., in) -> (N, ..., out)."""
        y = self.base(x)
        if self.factors is None or not self.enabled:
            return y
        down, up = (factor.to(y.dtype) for factor in self.factors)
        runs = x.to(y.dtype).reshape(len(down), -1, self.in_features)
        inner = torch.bmm(runs, down.transpose(1, 2))
        flat = y.reshape(len(down), -1, self.out_features)
        return torch.baddbmm(flat, inner, up.transpose(1, 2)).view(y.shape)


def attach(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Freeze ``model`` and put a :class:`PerSample` in the place of each named layer.

    Raises:
        BrokenGraph: A name is that of no linear layer.
    """
    model.requires_grad_(requires_grad=False)
    for name in names:
        parent, _, attribute = name.rpartition(".")
        owner = model.get_submodule(parent)
        base = owner.get_submodule(attribute)
        if not isinstance(base, nn.Linear | QuantizedLinear):
            raise BrokenGraph(f"{name} is a {type(base).__name__}; a predicted LoRA needs a linear layer.")
        setattr(owner, attribute, PerSample(base))
    return model


def attached(model: nn.Module) -> dict[str, PerSample]:
    """Layer -> what was put there."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PerSample)}


def enable(model: nn.Module, *, enabled: bool) -> None:
    """Have the attached layers use what is bound to them, or be the base's."""
    for layer in attached(model).values():
        layer.enabled = enabled


def bind(model: nn.Module, pairs: Pairs | None) -> None:
    """Have each attached layer use its pair from now on; layers without one, or all at None, are the base's.

    The pairs stay bound until the next call: blocks that a backward pass computes again need them, so they
    must outlive it.

    Raises:
        BrokenGraph: A pair is for a layer that was not attached.
    """
    layers = attached(model)
    if unknown := sorted(set(pairs or {}) - set(layers)):
        raise BrokenGraph(f"{len(unknown)} predicted pairs have no layer, {unknown[0]} first.")
    for name, layer in layers.items():
        layer.factors = None if pairs is None else pairs.get(name)


@contextmanager
def bound(model: nn.Module, pairs: Pairs | None) -> Iterator[None]:
    """:func:`bind` for the length of a block that has no backward pass behind it; then as before."""
    before = {name: layer.factors for name, layer in attached(model).items()}
    bind(model, pairs)
    try:
        yield
    finally:
        bind(model, {name: pair for name, pair in before.items() if pair is not None})
