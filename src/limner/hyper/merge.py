"""FactorPairs LoRAs as one: joined along the rank, and cut to a lower one."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from limner.errors import BadUsage
from limner.lora.adapters import to_lora
from limner.lora.factors import Factors
from limner.lora.merging import merge
from limner.lora.resizing import RankRule, resize

FactorPairs = Mapping[str, tuple[Tensor, Tensor]]
"""Layer -> A (rank, in) and B (out, rank) in float32; dW = B A."""


def groups_of(count: int, most: int) -> list[range]:
    """The numbers below ``count`` in groups of at most ``most``, of nearly the same size."""
    groups = math.ceil(count / most)
    size, rest = divmod(count, groups)
    starts = [number * size + min(number, rest) for number in range(groups + 1)]
    return [range(start, end) for start, end in pairwise(starts)]


def join(predictions: Sequence[FactorPairs], weights: Sequence[float]) -> dict[str, Factors]:
    """The sum of ``weight * B A``, exactly: ranks stand side by side. A layer that only some have is theirs.

    Args:
        predictions: Of one base, at least one.
        weights: One each. Pictures of one style: the shares of a mean. Experts: their strengths.

    Raises:
        BadLora: They are of different bases.
    """
    loras = [
        {"denoiser": {layer: Factors(down, up) for layer, (down, up) in pairs.items()}}
        for pairs in predictions
    ]
    return merge(loras, weights)["denoiser"]


def cut(
    adapter: Mapping[str, Factors], rank: int, *, nested: bool = False
) -> tuple[dict[str, Factors], float]:
    """A LoRA of a lower rank: the nearest, layer by layer, by an exact SVD (Eckart and Young 1936).

    Args:
        adapter: Layer -> factors.
        rank: The rank wanted.
        nested: Whether the ranks are in the order of what they give, as a predictor of ``nested`` writes
            them; the first are kept then.

    Returns:
        The LoRA, and the share of the energy (the sum of squared singular values of all layers) it keeps.

    Raises:
        BadUsage: The rank is below 1, or above that of every layer.
    """
    highest = max(factors.rank for factors in adapter.values())
    if not 1 <= rank <= highest:
        raise BadUsage(f"--rank is {rank}, and the prediction has rank {highest}. Set 1 to {highest}.")
    total = sum(factors.norm() ** 2 for factors in adapter.values())
    if nested:
        loras = {layer: Factors(pair.down[:rank], pair.up[:, :rank]) for layer, pair in adapter.items()}
        rest = (Factors(pair.down[rank:], pair.up[:, rank:]) for pair in adapter.values())
        residual = sum(factors.norm() ** 2 for factors in rest)
    else:
        adapters, losses = resize({"denoiser": adapter}, RankRule("rank", rank))
        residual = sum(loss.error**2 for loss in losses)
        loras = {layer: to_lora(change) for layer, change in adapters["denoiser"].items()}
    return loras, 1 - residual / total if total else 1.0
