"""Small random adapters for every family, with the modules that its table names."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from limner.lora.adapters import Dora, Loha, Lokr, WeightDelta
from limner.lora.factors import Factors
from limner.models.registry import lora_keys

WIDTH = 8


def factors(out: int = WIDTH, into: int = WIDTH, rank: int = 2, kernel: int = 0, seed: int = 0) -> Factors:
    draw = torch.Generator().manual_seed(seed + 1000 * rank + out)
    sides = (kernel, kernel) if kernel else ()
    up = torch.randn(out, rank, generator=draw)
    return Factors(torch.randn(rank, into, *sides, generator=draw), up[..., None, None] if kernel else up)


def loha(out: int = WIDTH, into: int = WIDTH, rank: int = 2, seed: int = 0) -> Loha:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(out, rank), (rank, into)] * 2
    return Loha(*(torch.randn(*shape, generator=draw) for shape in shapes))


def lokr(out: int = WIDTH, into: int = WIDTH, seed: int = 0, *, factored: bool = True) -> Lokr:
    draw = torch.Generator().manual_seed(seed)
    first = (torch.randn(2, 2, generator=draw),)
    if factored:
        second = (torch.randn(out // 2, 2, generator=draw), torch.randn(2, into // 2, generator=draw))
    else:
        second = (torch.randn(out // 2, into // 2, generator=draw),)
    return Lokr(first, second)


def dora(out: int = WIDTH, into: int = WIDTH, axis: str = "out", seed: int = 0) -> Dora:
    draw = torch.Generator().manual_seed(seed)
    size = out if axis == "out" else into
    return Dora(factors(out, into, seed=seed), torch.rand(size, generator=draw) + 0.5, axis)  # pyright: ignore


def _of(kind: str, out: int, seed: int, plain: Factors, kernel: tuple[int, ...] = ()) -> WeightDelta:
    match kind:
        case "LoRA":
            return plain
        case "LoHa":
            return replace(loha(out, WIDTH * math.prod(kernel), seed=seed), kernel=kernel)
        case "LoKr":
            delta = lokr(out, WIDTH * math.prod(kernel), seed=seed, factored=bool(seed % 2))
            return replace(delta, kernel=kernel)
        case "DoRA":
            return dora(out, seed=seed)
        case _:
            return dora(out, axis="in", seed=seed)


def denoiser(family: str, kind: str = "LoRA", blocks: int = 2) -> dict[str, WeightDelta]:
    """Every module of the table, blocks 0 and 1, of unequal ranks."""
    names, made = lora_keys()[family], {}
    for row in names.table.rows:
        for member, template in enumerate(row.modules):
            for block in range(blocks if "{}" in template else 1):
                module = template.format(*[block] * template.count("{}"))
                out, seed = WIDTH * row.shares[member] * (2 if row.halves_swapped else 1), len(made)
                kernel = names.kernel(module)
                plain = factors(out, rank=1 + seed % 3, kernel=kernel[0] if kernel else 0, seed=seed)
                made[module] = _of(kind, out, seed, plain, kernel)
    return made


def whole(family: str, kind: str = "LoRA") -> dict[str, dict[str, WeightDelta]]:
    """The denoiser, and a module or two of every text encoder."""
    names = lora_keys()[family]
    made = {names.component: denoiser(family, kind)}
    for component in names.text:
        rows = names.text[component].rows[:2]
        made[component] = {
            row.native.replace("{}", "1"): _of(kind, WIDTH, n, factors(seed=n)) for n, row in enumerate(rows)
        }
    return made


def worst(found: dict[str, dict[str, WeightDelta]], wished: dict[str, dict[str, WeightDelta]]) -> float:
    """The largest relative error of a product with a random vector; the modules must be the same."""
    names, others = ({(c, m) for c, adapter in each.items() for m in adapter} for each in (found, wished))
    assert names ^ others == set()
    draw, most = torch.Generator().manual_seed(9), 0.0
    for component, adapter in wished.items():
        for module, change in adapter.items():
            own = found[component][module]
            if isinstance(change, Dora) or isinstance(own, Dora):
                assert isinstance(own, Dora) and isinstance(change, Dora)
                assert torch.equal(own.magnitude, change.magnitude)
                own, change = own.factors, change.factors
            probe = torch.randn(change.shape[1], 8, generator=draw, dtype=torch.float64)
            right = change.times(probe)
            most = max(most, ((own.times(probe) - right).norm() / right.norm()).item())
    return most


def from_peft(model: nn.Module, adapter: str = "default") -> dict[str, Factors]:
    """The LoRA that peft has put into ``model``, its scale in ``up``: what stock tools made of a file."""
    return {
        name: Factors(
            layer.lora_A[adapter].weight.detach().float(),
            layer.lora_B[adapter].weight.detach().float() * layer.scaling[adapter],
        )
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.scaling
    }


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def warned() -> Iterator[list[str]]:
    """Warnings of diffusers, transformers and peft, whose loggers keep to themselves."""
    records = _Records()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "peft")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(records)
        logger.setLevel(logging.WARNING)
    try:
        yield records.texts
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(records)
            logger.setLevel(level)
