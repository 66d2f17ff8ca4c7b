"""Several LoRAs as one: exact, by putting their ranks side by side."""

from collections.abc import Mapping, Sequence

import torch

from limner.errors import BadLora
from limner.lora.adapters import WeightDelta, to_lora
from limner.lora.factors import Factors
from limner.lora.formats import canonical


def merge(
    loras: Sequence[Mapping[str, Mapping[str, WeightDelta]]], weights: Sequence[float]
) -> dict[str, dict[str, Factors]]:
    """The sum of ``weight * dW`` over all LoRAs, exactly: down = [down_1; down_2], up = [w_1 up_1, w_2 up_2].

    A module that only some have is theirs alone. (The mean of the downs times the mean of the ups is another
    matrix: it has cross terms.) The rank is the sum of the ranks; ``resize`` makes it smaller.

    Args:
        loras: At least one; LoHa and LoKr become LoRA first, exactly.
        weights: One each; negative ones subtract, and a LoRA of weight 0 is left out.

    Raises:
        BadLora: Shapes differ, nothing is left, or one is a DoRA.
    """
    parts: dict[str, dict[str, list[Factors]]] = {}
    for lora, weight in zip(loras, weights, strict=True):
        for component, adapter in lora.items() if weight else ():
            for module, change in adapter.items():
                name, factors = canonical(component, module), to_lora(change)
                terms = parts.setdefault(component, {}).setdefault(name, [])
                terms.append(Factors(factors.down, factors.up * weight))
    if not parts:
        raise BadLora("All weights are 0, so nothing is left. Give one that is not.")
    return {
        component: {module: _side_by_side(module, terms) for module, terms in modules.items()}
        for component, modules in parts.items()
    }


def _side_by_side(module: str, parts: Sequence[Factors]) -> Factors:
    shapes = {(part.up.shape[0], *part.down.shape[1:]) for part in parts}
    if len(shapes) > 1:
        texts = " and ".join(str(shape) for shape in sorted(shapes))
        raise BadLora(
            f"{module} is {texts} in the LoRAs: they are of different bases. Merge those of one base."
        )
    return Factors(torch.cat([part.down for part in parts]), torch.cat([part.up for part in parts], dim=1))
