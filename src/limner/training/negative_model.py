"""The model that makes the negative pass of samples, of a family where that is not the denoiser.

It is read for each round of samples and let go again, so that training has all the memory. Its weights are
stored as the denoiser's are; beside a denoiser on a GPU its blocks come one by one from the host, which hides
behind what they compute: never two whole denoisers are on the card.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from limner.assembly.resolve import Resolved
from limner.models.loading import load
from limner.nn.arch import empty
from limner.nn.memory.engine import equip
from limner.nn.memory.offload import cast_once
from limner.nn.memory.plan import ALL, Plan
from limner.training.oom_fallback import release


@contextmanager
def opened(
    resolved: Resolved, plan: Plan, folder: Path | None, guidance: float | None
) -> Iterator[Mapping[str, nn.Module]]:
    """While entered, it is there, by its name; nothing is where there is no negative pass.

    Args:
        resolved: The run.
        plan: How the denoiser is stored and trained.
        folder: Where weights go that the plan keeps in files.
        guidance: Of the samples; None: the base's own.

    Raises:
        BadBase: Its files are missing or damaged.
        DiskFull: There is no room for what stays in files.
    """
    family, spec, source = resolved.family, resolved.spec, resolved.sample_base.source
    if not family.has_negative_pass(source, guidance):
        yield {}
        return
    part, device = family.guidance.model, resolved.device
    plan = swapped(plan, device)
    model = load(family, source, part, dtype=spec.dtype, device=device, plan=plan, folder=folder)
    try:
        if spec.casts_inputs:
            cast_once(model, family.arch, spec.dtype)
        engine = equip(model, family.arch, plan, device=device, folder=folder)
        try:
            yield {part: model}
        finally:
            engine.close()
    finally:
        empty(model)
        release(device)


def swapped(plan: Plan, device: torch.device) -> Plan:
    """How a model beside the denoiser is computed, without gradients."""
    is_swapped = device.type == "cuda" or plan.swapped_blocks
    return replace(
        plan,
        checkpointed_blocks=0,
        keep_attention=False,
        precompute_modulation=False,
        compile=False,
        swapped_blocks=ALL if is_swapped else 0,
        swap_buffers=2,
    )
