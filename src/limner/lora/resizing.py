"""Another rank: for every module alike, by what each module needs, or by what the whole file may weigh."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from limner.errors import BadUsage
from limner.lora.adapters import Dora, WeightDelta
from limner.lora.svd import KroneckerSpectrum, Spectrum, spectrum

Singular = Spectrum | KroneckerSpectrum

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
        valid = 0 < self.value <= 1 if share else self.value >= 1
        if not valid:
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
    advance: Callable[[], object] = lambda: None,
) -> tuple[dict[str, dict[str, WeightDelta]], list[ResizeLoss]]:
    """Every module at its new rank, and what that lost. Asking for more rank than there is changes nothing.

    A DoRA stays one: its factors are cut, which turn its rows; the lengths of these stay.

    Args:
        components: LoHa and LoKr become LoRA first, exactly.
        rule: How many to keep.
        advance: Called once per module.
    """
    max_rank = int(rule.value) if rule.criterion == "rank" else None
    spectra: dict[tuple[str, str], Singular] = {}
    before: dict[tuple[str, str], int] = {}
    for component, adapter in components.items():
        for module, change in adapter.items():
            plain = change.factors if isinstance(change, Dora) else change
            spectra[component, module] = spectrum(plain, max_rank)
            before[component, module] = change.rank
            advance()
    ranks = _ranks(spectra, rule)
    adapters: dict[str, dict[str, WeightDelta]] = {}
    losses = []
    for (component, module), singular in spectra.items():
        rank = min(ranks[component, module], len(singular.values))
        factors, change = singular.cut(rank), components[component][module]
        adapters.setdefault(component, {})[module] = (
            replace(change, factors=factors) if isinstance(change, Dora) else factors
        )
        losses.append(_loss(component, module, singular, before[component, module], rank))
    return adapters, losses


def _loss(component: str, module: str, singular: Singular, before: int, rank: int) -> ResizeLoss:
    size, error = singular.values.norm().item(), singular.error(rank)
    relative = error / size if size else 0.0
    return ResizeLoss(component, module, before, rank, 1 - relative**2, error, relative)


def _ranks(spectra: Mapping[tuple[str, str], Singular], rule: RankRule) -> dict[tuple[str, str], int]:
    match rule.criterion:
        case "rank":
            return dict.fromkeys(spectra, int(rule.value))
        case "energy":
            return {name: _fewest(singular.values.square(), rule.value) for name, singular in spectra.items()}
        case "sum":
            return {name: _fewest(singular.values, rule.value) for name, singular in spectra.items()}
        case "ratio":
            return {name: _above(singular.values, rule.value) for name, singular in spectra.items()}
    return _pooled(spectra, rule)


def _fewest(values: Tensor, share: float) -> int:
    whole = values.sum()
    if not whole > 0:
        return 1
    enough = values.cumsum(0) >= share * whole * (1 - 1e-12)
    return int(enough.int().argmax().item()) + 1


def _above(values: Tensor, ratio: float) -> int:
    return max(1, int((values > values[0] / ratio).sum().item()))


def _pooled(spectra: Mapping[tuple[str, str], Singular], rule: RankRule) -> dict[tuple[str, str], int]:
    """Greedy by energy per number stored: best up to the last piece."""
    names = list(spectra)
    costs = torch.tensor([singular.cost for singular in spectra.values()])
    owner = torch.cat([torch.full((len(singular.values),), n) for n, singular in enumerate(spectra.values())])
    energy = torch.cat([singular.values.square() for singular in spectra.values()])
    first = torch.cat([torch.arange(len(singular.values)) == 0 for singular in spectra.values()])
    density = (energy / costs[owner]).masked_fill(first, float("inf"))
    order = density.argsort(descending=True, stable=True)
    if rule.criterion == "parameters":
        count = int((costs[owner[order]].cumsum(0) <= rule.value).sum().item())
        if count < len(names):
            minimum = int(costs.sum().item())
            raise BadUsage(
                f"--parameters is {rule.value:g}, and rank 1 everywhere takes {minimum}. Ask for more."
            )
    else:
        count = max(len(names), _fewest(energy[order], rule.value))
    counts = owner[order[:count]].bincount(minlength=len(names))
    return {name: int(counts[n].item()) for n, name in enumerate(names)}
