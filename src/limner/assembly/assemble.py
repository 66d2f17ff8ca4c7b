"""The models of a training step: which, in what precision, and put together, with weights or on meta."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from limner.assembly.training_adapter import TrainingAdapter
from limner.graph.unit import Split, Unit, split
from limner.imports import imported
from limner.models.facts import Objective
from limner.models.family import Family
from limner.models.loading import fingerprint, load, skeleton
from limner.models.placeholder import Placeholder
from limner.models.source import Source
from limner.nn.layers.quantized_linear import freeze, storable
from limner.nn.memory.offload import Offload, cast_once, offloaded
from limner.nn.memory.plan import Compute, Kind, Plan
from limner.nn.rng import Places
from limner.recipe.train import Train

if TYPE_CHECKING:
    from limner.nn.memory.parts import Parts

DTYPES: dict[Compute, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Trainable(Protocol):
    """What is trained of a base. One class for each method; ``assembly.trainable`` has them all.

    The methods that take ``models`` are given every model of the live units, by name.
    """

    @property
    def method(self) -> str:
        """As ``training.method`` names it."""
        ...

    @property
    def freezes_base(self) -> bool:
        """Whether the base's weights stay as they are. Only then are they quantized, swapped, precomputed."""
        ...

    @property
    def sparse(self) -> bool:
        """Whether blocks of one sort may differ in which of their layers are trained."""
        ...

    @property
    def separate(self) -> bool:
        """Whether what is trained is a model of its own, outside the denoiser and its blocks."""
        ...

    def family(self, family: Family) -> Family:
        """The family whose units a step runs: the base's, or one with more; BadBase if a model is missing."""
        ...

    def first_layers(self, family: Family, source: Source) -> dict[str, int]:
        """Model that is trained -> its first trained layer.

        Raises:
            BadRecipe: There is no such model, or it has fewer layers.
        """
        ...

    def still_layers(self, family: Family, source: Source) -> dict[str, int]:
        """The same, of what changes how captions without a new word are read."""
        ...

    def placeholder(self, family: Family) -> Placeholder:
        """The new word of captions that is learned; an empty one where there is none.

        Raises:
            BadRecipe: The family's text encoders can learn none.
        """
        ...

    def require_possible(self, spec: "ModelSpec") -> None:
        """Raise ``BadRecipe`` where the base's tokenizers, which are on the disk, cannot do what is asked."""
        ...

    def shape(self) -> dict[str, Any]:
        """What besides the LoRA's table may not change within a run, by name."""
        ...

    def show(
        self, units: Sequence[Unit], models: Mapping[str, Any], values: Mapping[str, Any], denoiser: nn.Module
    ) -> None:
        """Have the denoiser of samples show what is trained, where that is a model of its own."""
        ...

    def load_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in which a trained model is loaded, where the run computes in ``dtype``."""
        ...

    def layers(self, spec: "ModelSpec", name: str, model: nn.Module) -> Mapping[str, int]:
        """The layers of a model that get an adapter, and the rank of each.

        Raises:
            BadRecipe: A target matches nothing, or a rank is for convolutions and there are none.
        """
        ...

    def attach(self, spec: "ModelSpec", models: Mapping[str, nn.Module], sample_keys: Places) -> None:
        """Make the models trainable, in place. On meta there are shapes alone.

        Args:
            spec: What the models are of.
            models: All of them.
            sample_keys: Of the samples of the current micro-batch; the caller keeps them up to date.
        """
        ...

    def named(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """What is trained of a model, by the names of checkpoints, in a fixed order."""
        ...

    def rates(self, spec: "ModelSpec", name: str, model: nn.Module) -> Mapping[str, float]:
        """Multipliers of the learning rate, by the names of checkpoints; 1 where there is none.

        Raises:
            BadRecipe: A pattern matches nothing that is trained.
        """
        ...

    def set_dropout(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch the dropout of what was attached."""
        ...

    def enable(self, model: nn.Module, *, enabled: bool) -> None:
        """Have what was attached compute, or leave the base as it is. Only of a trainable that freezes it."""
        ...

    def clear(self, model: nn.Module) -> None:
        """Drop activations that a step which failed half way has left."""
        ...

    def after_step(self, models: Mapping[str, Any]) -> list[Callable[..., None]]:
        """What is done after each optimizer step: hooks of the optimizer, whose arguments are passed over."""
        ...

    def first_lines(self, spec: "ModelSpec", models: Mapping[str, Any], captions: Sequence[str]) -> list[str]:
        """What a person should know of it before the first step, a line each."""
        ...

    def learning_rate(self, train: Train, *, text_encoder: bool) -> float:
        """The learning rate at full strength of the denoiser, or of a text encoder."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A base with what of it is trained. From it and a plan models are assembled, with weights or without.

    Raises:
        BadBase: A config of the base means nothing.
        BadRecipe: The family has no such target, text encoder or option of the objective.
    """

    family: Family
    source: Source
    trainable: Trainable
    objective: Objective = Objective()
    compute: Compute = "bf16"
    """Precision of the arithmetic, and of frozen weights that are not quantized."""
    kind: Kind = "cuda"
    """Sort of the device."""
    adapter: TrainingAdapter | None = None
    """A LoRA that is part of the frozen denoiser while it is trained."""
    controls: int = 0
    """Control images of each image."""

    @property
    def dtype(self) -> torch.dtype:
        """``compute``, as torch names it."""
        return DTYPES[self.compute]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The family's units with every constant bound."""
        return self.family.bound(self.source, self.objective, self.controls)

    @cached_property
    def first_layers(self) -> dict[str, int]:
        """Model that is trained -> its first trained layer."""
        return self.trainable.first_layers(self.family, self.source)

    @cached_property
    def cut(self) -> Split:
        """The units, cut into those computed once and those of every step."""
        return split(self.units, self.first_layers)

    @cached_property
    def still_cut(self) -> Split:
        """The same for captions without a new word, of which more can be computed once."""
        layers = self.trainable.still_layers(self.family, self.source)
        return self.cut if layers == self.first_layers else split(self.units, layers)

    @cached_property
    def placeholder(self) -> Placeholder:
        """The new word that is learned, if there is one."""
        return self.trainable.placeholder(self.family)

    def cut_of(self, caption: str) -> Split:
        """Where the graph is cut for a caption."""
        return self.cut if self.word_in(caption) else self.still_cut

    def word_in(self, caption: str) -> str:
        """The new word where it stands in a caption; else nothing."""
        return self.placeholder.word if self.placeholder.stands_in(caption) else ""

    def part(self, name: str, device: torch.device) -> Any:
        """A tokenizer, which knows the new word if there is one, or a frozen model."""
        part = load(self.family, self.source, name, dtype=self.dtype, device=device)
        return self.placeholder.taught(name, part)

    def fingerprint(self, name: str, caption: str) -> str:
        """Identity of a part for cache keys of a caption: what a tokenizer has learned is part of it."""
        mark = fingerprint(self.family, self.source, name, self.dtype)
        word = self.placeholder
        return f"{mark} {word.word} {word.count}" if word.knows(name) and word.stands_in(caption) else mark

    @property
    def one_step(self) -> "ModelSpec":
        """The same, of a student that samples in one step: what its every step is but the first."""
        steps = min(1, self.objective.distill_steps)
        return replace(self, objective=replace(self.objective, distill_steps=steps))

    @property
    def control_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that hold control images."""
        return self.family.controls.inputs(self.controls) if self.family.controls else ()

    def skeleton(self, name: str) -> nn.Module:
        """A model of the base as it is, with true shapes and no weights, on meta."""
        return skeleton(self.family, self.source, name, dtype=self.dtype)

    def require_possible(self) -> None:
        """Raise what the class says, before anything is computed."""
        assert self.cut.live
        self.trainable.require_possible(self)

    @property
    def casts_inputs(self) -> bool:
        """Whether the denoiser's inputs are cast to half precision, and nothing after them."""
        return self.compute != "fp32" and self.trainable.freezes_base

    @property
    def autocasts(self) -> bool:
        """Whether each operation casts what it reads, as the weights are fp32 and the arithmetic is not."""
        return self.compute != "fp32" and not self.trainable.freezes_base


META = torch.device("meta")
SHARDING, HEAD_SHARDS = "limner.nn.memory.sharding:Sharding", "limner.hyper.shards:HeadShards"
"""What splits a denoiser, or the heads of a predictor, over processes: few runs do."""


@dataclass
class Assembled:
    """The models that live units call, with what is trained attached to them.

    Attributes:
        spec: What they are of.
        models: By name.
        sample_keys: Of the samples of the current micro-batch: adapters with dropout read them.
        offload: Where the masters are, if they are in the host's memory or in parts.
        sharding: The parts of the denoiser or of a predictor, where it is split over processes.
    """

    spec: ModelSpec
    models: dict[str, Any]
    sample_keys: Places = field(default_factory=list)
    offload: "Offload | Parts | None" = None
    sharding: "Parts | None" = None

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
    model = _skeleton if device == META else loaded
    assembly = Assembled(spec, {name: model(spec, plan, name, device, folder) for name in spec.cut.loaded})
    spec.trainable.attach(spec, assembly.models, assembly.sample_keys)
    if spec.adapter:
        spec.adapter.attach(assembly.denoiser, spec.dtype)
    if plan.optimizer_state == "host":
        assembly.offload = offloaded(assembly.denoiser, spec.dtype, device)
    if plan.shards > 1 and device != META:
        is_trained = not spec.trainable.freezes_base
        assembly.sharding = imported(SHARDING)(
            assembly.denoiser, spec.family.arch, device, is_trained=is_trained
        )
        assembly.offload = assembly.sharding if is_trained else None
    if plan.head_shards > 1 and device != META:
        (trained,) = spec.first_layers
        assembly.sharding = assembly.offload = imported(HEAD_SHARDS)(assembly.models[trained], device)
    if spec.casts_inputs and cast_inputs:
        cast_once(assembly.denoiser, spec.family.arch, spec.dtype)
    return assembly


def loaded(spec: ModelSpec, plan: Plan, name: str, device: torch.device, folder: Path | None) -> Any:
    """A model with its weights; of the denoiser those parts on the host that are to stay there."""
    dtype = load_dtype(spec, name)
    if plan.head_shards > 1 and name in spec.first_layers:
        device = torch.device("cpu")
    if name != spec.family.denoiser:
        return load(spec.family, spec.source, name, dtype=dtype, device=device)
    if plan.optimizer_state == "host" or plan.shards > 1:
        device = torch.device("cpu")
    return load(spec.family, spec.source, name, dtype=dtype, device=device, plan=plan, folder=folder)


def _skeleton(spec: ModelSpec, plan: Plan, name: str, device: torch.device, folder: Path | None) -> nn.Module:
    """The same without weights."""
    del device, folder
    model = skeleton(spec.family, spec.source, name, dtype=load_dtype(spec, name))
    if name == spec.family.denoiser and plan.codes:
        names = storable(model, spec.family.arch, modulations=plan.code_modulations)
        freeze(model, names, plan.codes, products=plan.matmul_precision)
    return model


def load_dtype(spec: ModelSpec, name: str) -> torch.dtype:
    """The precision in which a model is loaded: a trained one may need more than the run computes in."""
    return spec.trainable.load_dtype(spec.dtype) if name in spec.first_layers else spec.dtype
