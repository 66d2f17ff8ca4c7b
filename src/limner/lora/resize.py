"""Another rank: for every module alike, by what each module needs, or by what the whole file may weigh."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limner.errors import BadUsage
from limner.lora.adapters import WeightDelta, to_lora
from limner.lora.factors import Factors
from limner.lora.svd import Spectrum, spectrum

Criterion = Literal["rank", "energy", "ratio", "sum", "total-energy", "parameters"]


@dataclass(frozen=True)
class RankRule:
    """How many singular values each module keeps; at least one, so that no module is lost.

    Raises:
        BadUsage: The value is out of range.
    """

    criterion: Criterion
    """"rank": so many. "energy": the fewest with that share of the sum of squares. "sum": of the plain sum.
    "ratio": those above the largest divided by it. "total-energy" and "parameters": the ones that weigh most
    per number stored, over all modules together, until that share of the energy or that count is reached."""
    value: float

    def __post_init__(self) -> None:
        """Check the range."""
        share = self.criterion in ("energy", "sum", "total-energy")
        low, high = (0, 1) if share else (1, float("inf"))
        inside = 0 < self.value <= 1 if share else self.value >= 1
        if not inside:
            raise BadUsage(f"--{self.criterion} is {self.value:g}; it must be between {low} and {high}.")


@dataclass(frozen=True)
class ResizeLoss:
    """What resizing did to one module."""

    component: str
    module: str
    before: int
    after: int
    energy: float
    """Share of the sum of squared singular values that is kept, 0 to 1."""
    error: float
    """|dW - dW'|, Frobenius."""
    relative: float
    """|dW - dW'| / |dW|."""


def resize(
    components: Mapping[str, Mapping[str, WeightDelta]],
    rule: RankRule,
    tell: Callable[[], object] = lambda: None,
) -> tuple[dict[str, dict[str, Factors]], list[ResizeLoss]]:
    """Every module at its new rank, and what that lost. Asking for more rank than there is changes nothing.

    Args:
        components: LoHa and LoKr become LoRA first, exactly.
        rule: How many to keep.
        tell: Called once per module.

    Raises:
        BadLora: A module is a DoRA.
    """
    most = int(rule.value) if rule.criterion == "rank" else None
    found: dict[tuple[str, str], Spectrum] = {}
    before: dict[tuple[str, str], int] = {}
    for component, adapter in components.items():
        for module, change in adapter.items():
            factors = to_lora(change)
            before[component, module] = factors.rank
            found[component, module] = spectrum(factors, most)
            tell()
    ranks = _ranks(found, rule)
    made: dict[str, dict[str, Factors]] = {}
    losses = []
    for (component, module), own in found.items():
        rank = min(ranks[component, module], len(own.values))
        made.setdefault(component, {})[module] = own.cut(rank)
        losses.append(_loss(component, module, own, before[component, module], rank))
    return made, losses


def _loss(component: str, module: str, own: Spectrum, before: int, rank: int) -> ResizeLoss:
    size, error = own.values.norm().item(), own.error(rank)
    relative = error / size if size else 0.0
    return ResizeLoss(component, module, before, rank, 1 - relative**2, error, relative)


def _ranks(found: Mapping[tuple[str, str], Spectrum], rule: RankRule) -> dict[tuple[str, str], int]:
    match rule.criterion:
        case "rank":
            return dict.fromkeys(found, int(rule.value))
        case "energy":
            return {name: _fewest(own.values.square(), rule.value) for name, own in found.items()}
        case "sum":
            return {name: _fewest(own.values, rule.value) for name, own in found.items()}
        case "ratio":
            return {name: _above(own.values, rule.value) for name, own in found.items()}
    return _pooled(found, rule)


def _fewest(values: Tensor, share: float) -> int:
    whole = values.sum()
    if not whole > 0:
        return 1
    reached = values.cumsum(0) >= share * whole * (1 - 1e-12)
    return int(reached.int().argmax().item()) + 1


def _above(values: Tensor, ratio: float) -> int:
    return max(1, int((values > values[0] / ratio).sum().item()))


def _pooled(found: Mapping[tuple[str, str], Spectrum], rule: RankRule) -> dict[tuple[str, str], int]:
    """Greedy by energy per number stored: best up to the last piece."""
    names = list(found)
    costs = torch.tensor([own.left.shape[0] + own.right.shape[1] for own in found.values()])
    owner = torch.cat([torch.full((len(own.values),), n) for n, own in enumerate(found.values())])
    energy = torch.cat([own.values.square() for own in found.values()])
    first = torch.cat([torch.arange(len(own.values)) == 0 for own in found.values()])
    worth = (energy / costs[owner]).masked_fill(first, float("inf"))
    order = worth.argsort(descending=True, stable=True)
    if rule.criterion == "parameters":
        count = int((costs[owner[order]].cumsum(0) <= rule.value).sum().item())
        if count < len(names):
            least = int(costs.sum().item())
            raise BadUsage(
                f"--parameters is {rule.value:g}, and rank 1 everywhere takes {least}. Ask for more."
            )
    else:
        count = max(len(names), _fewest(energy[order], rule.value))
    kept = owner[order[:count]].bincount(minlength=len(names))
    return {name: int(kept[n].item()) for n, name in enumerate(names)}
