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
    source: str, reader: str, actual: Components, expected: Components, dtype: torch.dtype
) -> float:
    """The largest relative error of a module's product with a random vector.

    Args:
        source: The file, for the message.
        reader: Who read it, for the message.
        actual: What was read.
        expected: What was to be in it.
        dtype: Of the file's tensors; decides how much rounding is forgiven.

    Raises:
        BadLora: The sets of modules differ, or a product is further off than rounding explains.
    """
    actual_deltas, expected_deltas = _by_name(actual), _by_name(expected)
    if differences := _effective(actual_deltas, expected_deltas) ^ _effective(expected_deltas, actual_deltas):
        component, module = sorted(differences)[0]
        raise BadLora(
            f"{source}: {reader} reads {len(differences)} modules otherwise, the first is "
            f"{component}.{module}. Export again; if it stays so, report it with your version of {reader}."
        )
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for (component, module), change in expected_deltas.items():
        if (component, module) not in actual_deltas:
            continue
        error = difference(actual_deltas[component, module], change, draw)
        if not error <= TOLERANCE[dtype] * _factors(change):
            raise BadLora(
                f"{source}: {component}.{module} is {error:.1%} off when read as {dtype}. Write float32."
            )
        worst = max(worst, error)
    return worst


def _by_name(components: Components) -> dict[tuple[str, str], WeightDelta]:
    return {
        (c, canonical(c, m)): change for c, adapter in components.items() for m, change in adapter.items()
    }


def _effective(
    deltas: Mapping[tuple[str, str], WeightDelta], reference: Mapping[tuple[str, str], WeightDelta]
) -> set[tuple[str, str]]:
    """Those that are in the others too, or change something: a zero may be lost in a fused weight."""
    return {
        name
        for name, change in deltas.items()
        if name in reference or not isinstance(change, Factors) or bool(change.up.any())
    }


def _factors(change: WeightDelta) -> int:
    """How many times as much rounding as a pair of factors: a LoHa multiplies two pairs."""
    return 1 if isinstance(change, Factors) else 2


def difference(actual: WeightDelta, expected: WeightDelta, draw: torch.Generator) -> float:
    """|dW' X - dW X| / |dW X| for random columns X; infinite when shapes or kinds differ."""
    if actual.shape != expected.shape or isinstance(actual, Dora) != isinstance(expected, Dora):
        return float("inf")
    if isinstance(actual, Dora) and isinstance(expected, Dora):
        if actual.axis != expected.axis:
            return float("inf")
        gap = (actual.magnitude - expected.magnitude).norm() / expected.magnitude.norm()
        return max(difference(actual.factors, expected.factors, draw), gap.item())
    assert not isinstance(actual, Dora) and not isinstance(expected, Dora)
    probe = torch.randn(expected.shape[1], PROBES, generator=draw, dtype=torch.float64)
    exact, result = expected.times(probe), actual.times(probe)
    size, gap = exact.norm().item(), (result - exact).norm().item()
    return gap / size if size else float(gap > 0)
