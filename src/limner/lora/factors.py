"""The one form in which adapters are held: modules, each with its two factors."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from limner.errors import BadLora


@dataclass(frozen=True)
class Factors:
    """A change of one weight, dW = up @ down, its scale baked in (Hu et al., arXiv:2106.09685).

    Raises:
        BadLora: The shapes do not belong together, or the numbers are not float32.
    """

    down: Tensor
    """(rank, in) of a linear layer, (rank, in, height, width) of a convolution; float32."""
    up: Tensor
    """(out, rank), or (out, rank, 1, 1); float32."""

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        consistent = len(down) == len(up) in (2, 4) and up[1] == down[0] and up[2:] in ((), (1, 1))
        if not consistent or 0 in down + up:
            raise BadLora(
                f"Factors of shapes {down} and {up} do not make a change of a weight. Export again."
            )
        require_float32(self.down, self.up)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight, kernels laid flat."""
        return self.up.shape[0], self.down[0].numel()

    @property
    def rank(self) -> int:
        """Columns of ``up``, rows of ``down``; at least 1."""
        return self.down.shape[0]

    def times(self, probe: Tensor) -> Tensor:
        """Product of dW and ``probe``, float64, dW never made: (in * height * width[, n]) -> (out[, n])."""
        return self.up.double().flatten(1) @ (self.down.double().flatten(1) @ probe.double())

    def norm(self) -> float:
        """Frobenius norm of dW: |up @ down|^2 is the sum of (up^T up) * (down down^T)."""
        up, down = self.up.double().flatten(1), self.down.double().flatten(1)
        return ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt().item()

    def dense(self) -> Tensor:
        """The change itself, dW, in float64, (out, in * height * width): as large as the weight itself."""
        return self.up.double().flatten(1) @ self.down.double().flatten(1)


class Shaped(Protocol):
    """What has rows and columns of a weight."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, kernels laid flat."""
        ...


def require_fit(change: Shaped, weight: Tensor) -> None:
    """Raise ``BadLora`` unless this is a change of a weight of that shape."""
    if change.shape != (weight.shape[0], weight[0].numel()):
        raise BadLora(
            f"The change is {change.shape[0]} x {change.shape[1]} and the weight {tuple(weight.shape)}. "
            "Use the base that it was trained on."
        )


def with_kernel(factors: Factors, kernel: tuple[int, ...]) -> Factors:
    """Factors of a convolution that were laid flat, with its kernel again; as they are for ()."""
    if not kernel or factors.down.dim() == 4:
        return factors
    return Factors(factors.down.reshape(factors.rank, -1, *kernel), factors.up[..., None, None])


def require_float32(*tensors: Tensor) -> None:
    """Raise ``BadLora`` unless all are float32."""
    dtypes = [tensor.dtype for tensor in tensors]
    if set(dtypes) != {torch.float32}:
        names = " and ".join(map(str, dtypes))
        raise BadLora(f"Factors are {names}; convert them to float32 first.")


Value = TypeVar("Value")


def rename_for_model(adapter: Mapping[str, Value], modules: Collection[str]) -> dict[str, Value]:
    """Rename ``adapter`` for a model with these ``modules``.

    CLIP's text model lost its ``text_model.`` level in transformers 5: a file and a model may differ in it.

    Raises:
        BadLora: A module is in the adapter and not in the model.
    """
    if unknown := unknown_layers(adapter, modules):
        raise BadLora(
            f"{len(unknown)} of the LoRA's {len(adapter)} modules are not in this base: {unknown[0]} .. "
            "Load it on the base it was trained on."
        )
    names = set(modules)
    return {_in_model(name, names): value for name, value in adapter.items()}


def unknown_layers(adapter: Collection[str], modules: Collection[str]) -> list[str]:
    """Layers of an adapter that a model with these ``modules`` does not have."""
    names = set(modules)
    return [name for name in adapter if not _in_model(name, names)]


def _in_model(name: str, modules: Collection[str]) -> str:
    """What a model calls a layer of an adapter; empty: it has none."""
    candidates = (name, name.removeprefix("text_model."), f"text_model.{name}")
    return next((candidate for candidate in candidates if candidate in modules), "")
