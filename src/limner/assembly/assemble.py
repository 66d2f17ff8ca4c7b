"""The models of a training step, put together: with weights for a run, on meta for a plan or an export."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.assembly.spec import ModelSpec
from limner.models.loading import load, skeleton
from limner.nn.layers.dropout import Places
from limner.nn.layers.quantized_linear import freeze, storable
from limner.nn.memory.cast_inputs import cast_once
from limner.nn.memory.offload import Offload, halve
from limner.nn.memory.plan import Plan

META = torch.device("meta")


@dataclass
class Assembled:
    """The models that live units call, with what is trained attached to them.

    Attributes:
        spec: What they are of.
        models: By name.
        sample_keys: Of the samples of the current micro-batch: adapters with dropout read them.
        offload: Where the masters are, if they are in the host's memory.
    """

    spec: ModelSpec
    models: dict[str, Any]
    sample_keys: Places = field(default_factory=list)
    offload: Offload | None = None

    @property
    def denoiser(self) -> nn.Module:
        """The model that predicts noise or velocity."""
        return self.models[self.spec.family.denoiser]

    def named(self) -> dict[str, Mapping[str, nn.Parameter]]:
        """Model -> what is trained of it, by the names of checkpoints: the masters."""
        trainable = self.spec.trainable
        return {
            name: self.offload.masters if self.offload else trainable.named(self.models[name])
            for name in self.spec.first_layers
        }


def assemble(
    spec: ModelSpec,
    plan: Plan,
    device: torch.device,
    *,
    folder: Path | None = None,
    cast_inputs: bool = True,
) -> Assembled:
    """Load the models or make their skeletons, quantize, attach what is trained, cast.

    What is swapped, checkpointed or compiled is put on top by ``nn.memory.engine``.

    Args:
        spec: The base, and what of it is trained.
        plan: How frozen weights are stored, and where masters and weights lie.
        device: Where to; meta for true shapes and no weights.
        folder: Where weights go that the plan keeps in files.
        cast_inputs: Whether half precision is had by casting the denoiser's inputs; else by autocast.

    Raises:
        BadBase: The base's files are missing, damaged, or do not fit each other.
        BadRecipe: A target matches nothing, or the device cannot multiply as the plan says.
        DiskFull: There is no room for what stays in files.
    """
    model = _skeleton if device == META else _loaded
    assembly = Assembled(spec, {name: model(spec, plan, name, device, folder) for name in spec.cut.loaded})
    spec.trainable.attach(spec, assembly.models, assembly.sample_keys)
    if plan.optimizer_state == "host":
        assembly.offload = _offloaded(assembly.denoiser, spec.dtype, device)
    if spec.casts_inputs and cast_inputs:
        cast_once(assembly.denoiser, spec.family.arch, spec.dtype)
    return assembly


def _loaded(spec: ModelSpec, plan: Plan, name: str, device: torch.device, folder: Path | None) -> Any:
    """A model with its weights; of the denoiser those parts on the host that are to stay there."""
    dtype = load_dtype(spec, name)
    if name != spec.family.denoiser:
        return load(spec.family, spec.source, name, dtype=dtype, device=device)
    if plan.optimizer_state == "host":
        device = torch.device("cpu")
    return load(spec.family, spec.source, name, dtype=dtype, device=device, plan=plan, folder=folder)


def _skeleton(spec: ModelSpec, plan: Plan, name: str, device: torch.device, folder: Path | None) -> nn.Module:
    """The same without weights."""
    del device, folder
    model = skeleton(spec.family, spec.source, name, dtype=load_dtype(spec, name))
    if name == spec.family.denoiser and plan.codes:
        freeze(model, storable(model, spec.family.arch), plan.codes, products=plan.matmul_precision)
    return model


def load_dtype(spec: ModelSpec, name: str) -> torch.dtype:
    """The precision in which a model is loaded: a trained one may need more than the run computes in."""
    return spec.trainable.load_dtype(spec.dtype) if name in spec.first_layers else spec.dtype


def _offloaded(denoiser: nn.Module, dtype: torch.dtype, device: torch.device) -> Offload | None:
    """Masters on the host, and a working copy in ``dtype``; on meta the working copy alone."""
    if device != META:
        return Offload(denoiser, dtype=dtype, device=device)
    halve(denoiser, dtype)
    for weight in denoiser.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(_leave)
    return None


def _leave(weight: Tensor) -> None:
    """A gradient goes to the host as soon as it is there."""
    weight.grad = None
