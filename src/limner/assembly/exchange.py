"""Another base beneath the adapters that are trained, while samples are generated on it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from limner.assembly.assemble import Assembled, ModelSpec, loaded
from limner.nn.arch import empty
from limner.nn.layers.adapter import Adapter
from limner.nn.memory.offload import cast_once
from limner.nn.memory.plan import Plan


def exchange(  # noqa: PLR0913  what models are made of
    assembly: Assembled,
    spec: ModelSpec,
    adapters: Mapping[str, Adapter],
    plan: Plan,
    device: torch.device,
    folder: Path | None,
) -> None:
    """Put the frozen denoiser of another base beneath adapters, in the place of the one that is there.

    That one is emptied first, so that never two are in memory, whoever still holds it. What stands on it
    (``nn.memory.engine``) has been taken off before.

    Args:
        assembly: Whose denoiser it is.
        spec: The other base, of the same family.
        adapters: Layer -> what is trained there: :func:`limner.nn.layers.lora.attached` before the first.
        plan: As in :func:`assemble`.
        device: As in :func:`assemble`.
        folder: As in :func:`assemble`.

    Raises:
        BadBase: The base's files are missing or damaged. The assembly is without a denoiser then.
    """
    name = spec.family.denoiser
    previous = assembly.models.pop(name, None)
    for layer, adapter in adapters.items():
        if previous is not None:
            _put(previous, layer, adapter.base)
        adapter.base = nn.Identity()
    if previous is not None:
        empty(previous)
    denoiser = loaded(spec, plan, name, device, folder)
    for layer, adapter in adapters.items():
        adapter.base = denoiser.get_submodule(layer)
        _put(denoiser, layer, adapter)
    if spec.adapter:
        spec.adapter.attach(denoiser, spec.dtype)
    if spec.casts_inputs:
        cast_once(denoiser, spec.family.arch, spec.dtype)
    assembly.models[name] = denoiser


def _put(model: nn.Module, layer: str, module: nn.Module) -> None:
    parent, _, attribute = layer.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
