"""Is what a tool reads what was meant? Module by module, by products with random vectors."""

from collections.abc import Mapping

import torch

from limner.errors import BadLora
from limner.lora.adapters import Dora, WeightDelta
from limner.lora.factors import Factors
from limner.lora.formats import canonical

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest |dW' X - dW X| / |dW X| that rounding to the file's dtype explains: two factors, two units each."""

PROBES = 8
"""Random vectors: with one alone, a product near zero by chance would look like an error."""

Components = Mapping[str, Mapping[str, WeightDelta]]


def require_equal(
    where: str, reader: str, found: Components, wished: Components, dtype: torch.dtype
) -> float:
    """The largest relative error of a module's product with a random vector.

    Args:
        where: The file, for the message.
        reader: Who read it, for the message.
        found: What was read.
        wished: What was to be in it.
        dtype: Of the file's tensors; decides how much rounding is forgiven.

    Raises:
        BadLora: The sets of modules differ, or a product is further off than rounding explains.
    """
    read, meant = _named(found), _named(wished)
    if missing := _effective(read, meant) ^ _effective(meant, read):
        component, module = sorted(missing)[0]
        raise BadLora(
            f"{where}: {reader} reads {len(missing)} modules otherwise, the first is {component}.{module}. "
            f"Export again; if it stays so, report it with your version of {reader}."
        )
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for (component, module), change in meant.items():
        if (component, module) not in read:
            continue
        error = difference(read[component, module], change, draw)
        if not error <= TOLERANCE[dtype] * _factors(change):
            raise BadLora(
                f"{where}: {component}.{module} is {error:.1%} off when read as {dtype}. Write float32."
            )
        worst = max(worst, error)
    return worst


def _named(components: Components) -> dict[tuple[str, str], WeightDelta]:
    return {
        (c, canonical(c, m)): change for c, adapter in components.items() for m, change in adapter.items()
    }


def _effective(
    these: Mapping[tuple[str, str], WeightDelta], others: Mapping[tuple[str, str], WeightDelta]
) -> set[tuple[str, str]]:
    """Those that are in the others too, or change something: a zero may be lost in a fused weight."""
    return {
        name
        for name, change in these.items()
        if name in others or not isinstance(change, Factors) or bool(change.up.any())
    }


def _factors(change: WeightDelta) -> int:
    """How many times as much rounding as a pair of factors: a LoHa multiplies two pairs."""
    return 1 if isinstance(change, Factors) else 2


def difference(found: WeightDelta, wished: WeightDelta, draw: torch.Generator) -> float:
    """|dW' X - dW X| / |dW X| for random columns X; infinite when shapes or kinds differ."""
    if found.shape != wished.shape or isinstance(found, Dora) != isinstance(wished, Dora):
        return float("inf")
    if isinstance(found, Dora) and isinstance(wished, Dora):
        if found.axis != wished.axis:
            return float("inf")
        off = (found.magnitude - wished.magnitude).norm() / wished.magnitude.norm()
        return max(difference(found.factors, wished.factors, draw), off.item())
    assert not isinstance(found, Dora) and not isinstance(wished, Dora)
    probe = torch.randn(wished.shape[1], PROBES, generator=draw, dtype=torch.float64)
    right, got = wished.times(probe), found.times(probe)
    size, off = right.norm().item(), (got - right).norm().item()
    return off / size if size else float(off > 0)
