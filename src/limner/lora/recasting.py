"""Adapters of a file made into adapters of another kind, exactly or as near as that kind comes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limner.errors import BadLora, BadUsage
from limner.lora.adapters import Axis, Dora, WeightDelta, kind
from limner.lora.extraction import ExtractLoss
from limner.lora.factors import Factors
from limner.lora.formats import canonical
from limner.lora.nearest import (
    KindName,
    KindRequest,
    dense,
    is_of_kind,
    nearest_change,
    rank_of,
    require_kind,
)
from limner.lora.svd import spectrum
from limner.lora.weights import open_base
from limner.reporter import Reporter

Components = Mapping[str, Mapping[str, WeightDelta]]


@dataclass(frozen=True, kw_only=True)
class Recast:
    """What the adapters of a file shall become.

    Raises:
        BadUsage: The kind is unknown, or a factor or rank that it cannot have is given.
    """

    kind: KindName
    rank: int | None = None
    """None: of each module what it is."""
    factor: int | None = None
    """Of a LoKr."""
    norms: Axis = "out"
    """Of a DoRA."""

    def __post_init__(self) -> None:
        """Check what belongs together."""
        require_kind(self.kind, self.factor)
        if self.rank is not None and self.rank < 1:
            raise BadUsage(f"--rank is {self.rank}; it must be at least 1.")


def recast(
    components: Components, request: Recast, base: Path | None, family: str | None, reporter: Reporter
) -> tuple[dict[str, dict[str, WeightDelta]], list[ExtractLoss]]:
    """Every module as an adapter of the kind, and what was lost of it; those that are so already stay.

    Args:
        components: Of a file.
        request: The kind.
        base: Checkpoint of the base: what a DoRA needs, on either side.
        family: Of the base.
        reporter: Hears of each module.

    Raises:
        BadLora: A DoRA has no base, or the base lacks a module.
        BadUsage: A DoRA is asked for without a base.
    """
    if request.kind == "dora" and base is None:
        raise BadUsage("A DoRA holds lengths of the base's weights. Give the base with --base.")
    weight_of = weights_of(base, family) if base else None

    def change(component: str, module: str, delta: WeightDelta) -> tuple[WeightDelta, float] | None:
        is_same = is_of_kind(delta, request.kind)
        if is_same and (request.rank is None or request.rank >= rank_of(delta)) and request.factor is None:
            return None
        weight = weight_of(component, module) if weight_of else None
        size = KindRequest(
            kind=request.kind, rank=request.rank or rank_of(delta), factor=request.factor, norms=request.norms
        )
        return nearest_change(dense(delta, weight), size, weight)

    return _each(components, change, f"Making {request.kind}", reporter)


def flatten(
    components: Components, rank: int, base: Path | None, family: str | None, reporter: Reporter
) -> tuple[dict[str, dict[str, WeightDelta]], list[ExtractLoss]]:
    """LoHa, LoKr and DoRA as plain LoRAs of at most that rank; plain ones as they are.

    Raises:
        BadLora: A DoRA has no base.
        BadUsage: The rank is none.
    """
    if rank < 1:
        raise BadUsage(f"--flatten is {rank}; a rank is at least 1.")
    weight_of = weights_of(base, family) if base else None

    def change(component: str, module: str, delta: WeightDelta) -> tuple[WeightDelta, float] | None:
        if kind(delta) == "LoRA":
            return None
        weight = weight_of(component, module) if weight_of and isinstance(delta, Dora) else None
        return flattened(delta, weight, rank)

    return _each(components, change, "Flattening", reporter)


Change = Callable[[str, str, WeightDelta], tuple[WeightDelta, float] | None]
"""Component, module and adapter -> another adapter and its relative error; None: it stays."""


def _each(
    components: Components, change: Change, words: str, reporter: Reporter
) -> tuple[dict[str, dict[str, WeightDelta]], list[ExtractLoss]]:
    adapters: dict[str, dict[str, WeightDelta]] = {}
    losses = []
    with reporter.progress(words, sum(map(len, components.values()))) as bar:
        for component, adapter in components.items():
            for module, delta in adapter.items():
                result, relative = change(component, module, delta) or (delta, None)
                if relative is not None:
                    losses.append(ExtractLoss(component, module, rank_of(result), relative, delta.norm()))
                adapters.setdefault(component, {})[module] = result
                bar.advance()
    return adapters, losses


def flattened(delta: WeightDelta, weight: Tensor | None, rank: int) -> tuple[Factors, float]:
    """Any change as a plain LoRA of a rank, and |dW - dW'| / |dW| of what that leaves out.

    Args:
        delta: A DoRA needs its weight.
        weight: Of the base, in diffusers' shape.
        rank: At most.
    """
    if isinstance(delta, Dora) and weight is not None:
        plain, error = nearest_change(dense(delta, weight), KindRequest(kind="lora", rank=rank))
        assert isinstance(plain, Factors)
        return plain, error
    singular = spectrum(delta, rank)
    new_rank = min(rank, len(singular.values))
    size = singular.values.norm().item()
    return singular.cut(new_rank), singular.error(new_rank) / size if size else 0.0


def weights_of(base: Path, family: str | None) -> Callable[[str, str], Tensor]:
    """The weights of a base by module, in diffusers' names; a fused one gives its slice."""
    checkpoint = open_base(base, family)
    index = checkpoint.modules()

    def read(component: str, module: str) -> Tensor:
        weight = index.get((component, canonical(component, module)))
        if weight is None:
            raise BadLora(f"{component}.{module} is not in {base.name}. Give the base it was trained on.")
        return checkpoint.read_modules(weight)[canonical(component, module)].to(torch.float64)

    return read
