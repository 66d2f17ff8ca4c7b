"""A LoRA from a whole fine-tune: the nearest change of low rank to each difference of weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.errors import BadBase
from limner.lora import qkv
from limner.lora.adapters import Dora, WeightDelta, to_lora
from limner.lora.factors import Factors
from limner.lora.svd import nearest, spectrum
from limner.lora.weights import BaseCheckpoint, BaseWeight


@dataclass(frozen=True)
class ExtractLoss:
    """What a LoRA of that rank does not hold of a module's difference."""

    component: str
    module: str
    rank: int
    relative: float
    """|dW - dW'| / |dW|, Frobenius."""


def extract(
    base: BaseCheckpoint, tuned: BaseCheckpoint, rank: int, tell: Callable[[], object] = lambda: None
) -> tuple[dict[str, dict[str, Factors]], list[ExtractLoss]]:
    """The difference of two checkpoints as a LoRA, module by module; modules that are equal are left out.

    Args:
        base: What was fine-tuned.
        tuned: What came of it; the same naming is not needed, the same family is.
        rank: Of every module, at most.
        tell: Called once per weight.

    Raises:
        BadBase: The families differ, or no weight is in both, or none differs.
    """
    if base.family != tuned.family:
        raise BadBase(
            f"One checkpoint is {base.family.family}, the other {tuned.family.family}. Give two of one."
        )
    others = {(w.component, w.place.row.native, w.place.member, w.place.numbers): w for w in tuned.weights}
    made: dict[str, dict[str, Factors]] = {}
    lost, shared = [], 0
    for weight in base.weights:
        other = others.get(
            (weight.component, weight.place.row.native, weight.place.member, weight.place.numbers)
        )
        tell()
        if other is None or other.native != weight.native:
            continue
        shared += 1
        change = _difference(base.read(weight), tuned.read(other), weight)
        if not change.any():
            continue
        for module, factors, relative in _modules(weight, change, rank):
            made.setdefault(weight.component, {})[module] = factors
            lost.append(ExtractLoss(weight.component, module, factors.rank, relative))
    if not made:
        why = "No weight is in both" if not shared else "No weight differs"
        raise BadBase(f"{why}: there is nothing to extract. Give the base and its fine-tune in one naming.")
    return made, lost


def _difference(before: Tensor, after: Tensor, weight: BaseWeight) -> Tensor:
    if before.shape != after.shape:
        raise BadBase(
            f"{weight.name} is {tuple(before.shape)} in the base and {tuple(after.shape)} in the fine-tune. "
            "Give a fine-tune of that base."
        )
    return after.float() - before.float()


def _modules(weight: BaseWeight, change: Tensor, rank: int) -> list[tuple[str, Factors, float]]:
    """Fused weights are taken apart first, so that each module gets its own rank."""
    row, modules = weight.place.row, weight.place.modules
    if not weight.native:
        return [_cut(modules[weight.place.member or 0], change, rank)]
    blocks = change.split(qkv.row_counts(row, change.shape[0]))
    if row.swapped:
        first, second = change.chunk(2)
        return [_cut(modules[0], torch.cat([second, first]), rank)]
    return [_cut(module, block, rank) for module, block in zip(modules, blocks, strict=True) if block.any()]


def _cut(module: str, change: Tensor, rank: int) -> tuple[str, Factors, float]:
    factors = nearest(change, rank).cut(rank)
    size = change.double().norm().item()
    left = (change.double().flatten(1) - factors.dense()).norm().item()
    return module, factors, left / size


def flattened(change: WeightDelta, weight: Tensor | None, rank: int) -> tuple[Factors, float]:
    """Any change as a plain LoRA of a rank, and |dW - dW'| / |dW| of what that leaves out.

    Args:
        change: A DoRA needs its weight.
        weight: Of the base, in diffusers' shape.
        rank: At most.
    """
    if isinstance(change, Dora) and weight is not None:
        _, factors, relative = _cut("", (change.over(weight) - weight.double()), rank)
        return factors, relative
    own = spectrum(to_lora(change))
    kept = min(rank, len(own.values))
    size = own.values.norm().item()
    return own.cut(kept), own.error(kept) / size if size else 0.0
