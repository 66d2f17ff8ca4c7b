"""A LoRA from a whole fine-tune: the nearest change of low rank to each difference of weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.errors import BadBase
from limner.lora.adapters import WeightDelta
from limner.lora.nearest import KindRequest, nearest_change, rank_of
from limner.lora.weights import BaseCheckpoint, BaseWeight


@dataclass(frozen=True)
class ExtractLoss:
    """What a LoRA of that rank does not hold of a module's difference."""

    component: str
    module: str
    rank: int
    relative: float
    """|dW - dW'| / |dW|, Frobenius."""
    size: float = 0.0
    """|dW|, Frobenius."""


@dataclass(frozen=True)
class Extraction:
    """A fine-tune's difference to its base, as an adapter and what no adapter holds."""

    adapters: dict[str, dict[str, WeightDelta]]
    """Component -> module -> its adapter."""
    losses: list[ExtractLoss]
    left_out: tuple[str, ...]
    """Tensors that differ and that a LoRA does not hold: biases, norms, embeddings, a VAE."""
    left_out_share: float
    """Frobenius norm of their differences by that of all differences, 0 to 1."""
    lone_count: int
    """Such tensors of the base that the fine-tune has under no name that is known."""


def extract(
    base: BaseCheckpoint,
    finetune: BaseCheckpoint,
    request: KindRequest,
    advance: Callable[[], object] = lambda: None,
) -> Extraction:
    """The difference of two checkpoints as an adapter, module by module; equal modules are left out.

    A weight that is the other's, rounded to its dtype, is equal: rounding is no difference.

    Args:
        base: What was fine-tuned.
        finetune: What came of it, in the same naming or another; the family is the same.
        request: The kind of adapter, and its rank, at most, in every module.
        advance: Called once per weight of the base.

    Raises:
        BadBase: The families differ, or no weight is in both, or none differs.
    """
    if base.family != finetune.family:
        raise BadBase(
            f"One checkpoint is {base.family.family}, the other {finetune.family.family}. Give two of one."
        )
    partners = finetune.modules()
    adapters: dict[str, dict[str, WeightDelta]] = {}
    losses: list[ExtractLoss] = []
    energy, common = 0.0, 0
    for weight in base.weights:
        advance()
        for module, before, after in _pairs(base, finetune, weight, partners):
            common += 1
            if _equal(before, after):
                continue
            delta = after.float() - before.float()
            change, relative = nearest_change(delta, request, before)
            adapters.setdefault(weight.component, {})[module] = change
            size = delta.double().norm().item()
            losses.append(ExtractLoss(weight.component, module, rank_of(change), relative, size))
            energy += size**2
    left_out, left_energy, lone_count = _left_out(base, finetune)
    if not adapters:
        raise BadBase(_nothing(common, left_out))
    share = (left_energy / (energy + left_energy)) ** 0.5
    return Extraction(adapters, losses, left_out, share, lone_count)


def _nothing(common: int, left_out: Sequence[str]) -> str:
    if not common:
        return "No weight is in both: there is nothing to extract. Give the base and a fine-tune of it."
    if left_out:
        return (
            f"Only {len(left_out)} tensors differ that a LoRA does not hold (biases, norms, embeddings), the "
            f"first is {left_out[0]}: there is nothing to extract. Use the fine-tune itself."
        )
    return "No weight differs: there is nothing to extract. Give the base and its fine-tune."


def _pairs(
    base: BaseCheckpoint,
    finetune: BaseCheckpoint,
    weight: BaseWeight,
    partners: Mapping[tuple[str, str], BaseWeight],
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(module, its weight before, its weight after) of the modules of a weight that are in both."""
    tensors = base.read_modules(weight)
    counterparts: dict[str, Tensor] = {}
    for module, before in tensors.items():
        partner = partners.get((weight.component, module))
        if partner is None:
            continue
        if module not in counterparts:  # a fused weight is read once for all of its modules
            counterparts |= finetune.read_modules(partner)
        after = counterparts[module]
        if before.shape != after.shape:
            raise BadBase(
                f"{module} is {tuple(before.shape)} in the base and {tuple(after.shape)} in the fine-tune. "
                "Give a fine-tune of that base."
            )
        yield module, before, after


def _equal(before: Tensor, after: Tensor) -> bool:
    return torch.equal(before.to(after.dtype), after) or torch.equal(after.to(before.dtype), before)


def _left_out(base: BaseCheckpoint, finetune: BaseCheckpoint) -> tuple[tuple[str, ...], float, int]:
    """The other tensors that differ, the sum of their squared differences, and how many have no partner."""
    partners = {(tensor.component, tensor.name): tensor for tensor in finetune.other_tensors}
    names, energy, lone_count = [], 0.0, 0
    for tensor in base.other_tensors:
        partner = partners.get((tensor.component, tensor.name))
        if partner is None:
            lone_count += 1
            continue
        before, after = base.read(tensor), finetune.read(partner)
        same_shape = before.shape == after.shape
        if same_shape and _equal(before, after):
            continue
        names.append(f"{tensor.component}.{tensor.name}".removeprefix("."))
        change = after.double() - before.double() if same_shape else after.double()
        energy += change.square().sum().item()
    return tuple(names), energy, lone_count


def energy_kept(losses: Sequence[ExtractLoss]) -> float:
    """Share of the squared size of all changes together that is kept, 0 to 1."""
    whole = sum(loss.size**2 for loss in losses)
    return 1 - sum((loss.relative * loss.size) ** 2 for loss in losses) / whole if whole else 1.0
