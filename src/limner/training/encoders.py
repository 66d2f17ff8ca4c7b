"""Models that fill the cache, opened as the plan says: whole, layer by layer, in tiles."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from limner.assembly.resolve import Resolved, cache_root
from limner.models.loading import load
from limner.nn.arch import ArchSpec
from limner.nn.layer_lists import heaviest
from limner.nn.memory import vae_tiling
from limner.nn.memory.engine import equip
from limner.nn.memory.plan import Plan


def whole(resolved: Resolved, part: str, device: torch.device | None = None) -> Any:
    """A tokenizer or a model, all of it on a device: the run's, if no other is given."""
    device = device or resolved.device
    model = load(resolved.family, resolved.source, part, dtype=resolved.dtype, device=device)
    if part == "vae" and resolved.encode_tiled:
        vae_tiling.tile(model)
    return model


@contextmanager
def opened(resolved: Resolved, part: str) -> Iterator[Any]:
    """A tokenizer or a model as the plan has it; what it computes is the same to the bit.

    A model that is made of layers may come to the device layer by layer while it works, two of them at a
    time, from the host's memory, or from files where that is short. One that is trained is on the device
    anyway, and is not streamed here.
    """
    if not resolved.encode_streamed or part.startswith("tokenizer") or part in resolved.first_layers:
        yield whole(resolved, part)
        return
    model = whole(resolved, part, torch.device("cpu"))
    name = heaviest(model)
    if name is None:
        yield model.to(resolved.device)
        return
    layers = len(model.get_submodule(name))
    plan = Plan(swapped_blocks=layers, mmap_weights=resolved.encode_mapped)
    folder = cache_root(resolved.recipe)
    folder.mkdir(parents=True, exist_ok=True)  # nothing may have been kept there yet
    arch = ArchSpec(blocks=(f"{name}.*",))
    engine = equip(model, arch, plan, device=resolved.device, folder=folder)
    try:
        yield model
    finally:
        engine.close()
