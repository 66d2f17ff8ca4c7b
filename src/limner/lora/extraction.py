"""A LoRA from a whole fine-tune: the nearest change of low rank to each difference of weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.errors import BadBase
from limner.lora import qkv
from limner.lora.adapters import Dora, WeightDelta
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
    base: BaseCheckpoint, finetune: BaseCheckpoint, rank: int, advance: Callable[[], object] = lambda: None
) -> tuple[dict[str, dict[str, Factors]], list[ExtractLoss]]:
    """The difference of two checkpoints as a LoRA, module by module; modules that are equal are left out.

    Args:
        base: What was fine-tuned.
        finetune: What came of it; the same naming is not needed, the same family is.
        rank: Of every module, at most.
        advance: Called once per weight.

    Raises:
        BadBase: The families differ, or no weight is in both, or none differs.
    """
    if base.family != finetune.family:
        raise BadBase(
            f"One checkpoint is {base.family.family}, the other {finetune.family.family}. Give two of one."
        )
    finetune_weights = {
        (w.component, w.match.row.native, w.match.member, w.match.numbers): w for w in finetune.weights
    }
    adapters: dict[str, dict[str, Factors]] = {}
    losses, common = [], 0
    for weight in base.weights:
        partner = finetune_weights.get(
            (weight.component, weight.match.row.native, weight.match.member, weight.match.numbers)
        )
        advance()
        if partner is None or partner.native != weight.native:
            continue
        common += 1
        delta = _difference(base.read(weight), finetune.read(partner), weight)
        if not delta.any():
            continue
        for module, factors, relative in _modules(weight, delta, rank):
            adapters.setdefault(weight.component, {})[module] = factors
            losses.append(ExtractLoss(weight.component, module, factors.rank, relative))
    if not adapters:
        reason = "No weight is in both" if not common else "No weight differs"
        raise BadBase(
            f"{reason}: there is nothing to extract. Give the base and its fine-tune in one naming."
        )
    return adapters, losses


def _difference(before: Tensor, after: Tensor, weight: BaseWeight) -> Tensor:
    if before.shape != after.shape:
        raise BadBase(
            f"{weight.name} is {tuple(before.shape)} in the base and {tuple(after.shape)} in the fine-tune. "
            "Give a fine-tune of that base."
        )
    return after.float() - before.float()


def _modules(weight: BaseWeight, delta: Tensor, rank: int) -> list[tuple[str, Factors, float]]:
    """Fused weights are taken apart first, so that each module gets its own rank."""
    row, modules = weight.match.row, weight.match.modules
    if not weight.native:
        return [_cut(modules[weight.match.member or 0], delta, rank)]
    blocks = delta.split(qkv.row_counts(row, delta.shape[0]))
    if row.swaps((delta.shape[0], delta[0].numel())):
        first, second = delta.chunk(2)
        return [_cut(modules[0], torch.cat([second, first]), rank)]
    return [_cut(module, block, rank) for module, block in zip(modules, blocks, strict=True) if block.any()]


def _cut(module: str, delta: Tensor, rank: int) -> tuple[str, Factors, float]:
    factors = nearest(delta, rank).cut(rank)
    size = delta.double().norm().item()
    residual = (delta.double().flatten(1) - factors.dense()).norm().item()
    return module, factors, residual / size


def flattened(delta: WeightDelta, weight: Tensor | None, rank: int) -> tuple[Factors, float]:
    """Any change as a plain LoRA of a rank, and |dW - dW'| / |dW| of what that leaves out.

    Args:
        delta: A DoRA needs its weight.
        weight: Of the base, in diffusers' shape.
        rank: At most.
    """
    if isinstance(delta, Dora) and weight is not None:
        _, factors, relative = _cut("", (delta.over(weight) - weight.double()), rank)
        return factors, relative
    singular = spectrum(delta, rank)
    new_rank = min(rank, len(singular.values))
    size = singular.values.norm().item()
    return singular.cut(new_rank), singular.error(new_rank) / size if size else 0.0
