"""What tests trace: a base with a LoRA on it, by the few words that differ from test to test."""

from collections.abc import Mapping
from typing import Any

from limner.assembly.assemble import ModelSpec
from limner.assembly.trainable import FullFineTune, LoRA
from limner.models.facts import Objective
from limner.models.family import Family
from limner.models.source import Source
from limner.nn.memory.plan import Compute, Kind
from limner.planning.dry_run import TraceSpec
from limner.recipe.train import Lora

HOW = ("size", "on_host", "weights", "matmul_precision", "arithmetic", "attention")


def traced(
    family: Family,
    source: Source,
    *,
    full: bool = False,
    compute: Compute = "bf16",
    device: Kind = "cuda",
    text_encoders: Mapping[str, int] | None = None,
    objective: Objective | None = None,
    **choices: Any,
) -> tuple[ModelSpec, TraceSpec]:
    """A spec and how to trace it; ``text_encoders`` name the first trained layer, the rest is the LoRA's."""
    how = TraceSpec(**{name: choices.pop(name) for name in HOW if name in choices})
    lora = Lora(text_encoders=tuple(text_encoders or ()), **choices)
    for name, first in (text_encoders or {}).items():
        lora = Lora(**{**lora.model_dump(), "text_encoder_layers": family.depth(source, name) - first})
    spec = ModelSpec(
        family=family,
        source=source,
        trainable=FullFineTune() if full else LoRA(lora),
        objective=objective or Objective(),
        compute=compute,
        kind=device,
    )
    return spec, how
