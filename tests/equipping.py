"""A model equipped by single choices of a plan: tests name what they try, and which blocks are swapped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limner.nn.arch import ArchSpec
from limner.nn.memory import engine
from limner.nn.memory.plan import Plan

NAMES = {
    "checkpointed": "checkpointed_blocks",
    "slots": "swap_buffers",
    "mapped": "mmap_weights",
    "hoist": "precompute_modulation",
}
"""What tests call choices -> fields of the plan."""


def equip(
    model: nn.Module,
    arch: ArchSpec,
    *,
    device: torch.device,
    folder: Path | None = None,
    streamed: Sequence[int] = (),
    **choices: Any,
) -> engine.Engine:
    names = {NAMES.get(name, name): value for name, value in choices.items()}
    plan = Plan(**names, swapped_blocks=len(streamed))
    return engine.equip(model, arch, plan, device=device, folder=folder, streamed=streamed)
