"""Which models train, on which device and in what precision: all that decides how a base is assembled."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import nn

from limner.graph.split import Split, split
from limner.graph.unit import Unit
from limner.models.family import Family
from limner.models.loading import skeleton
from limner.models.objective import Objective
from limner.models.source import Source
from limner.nn.layers.dropout import Places
from limner.nn.memory.plan import Compute, Kind
from limner.recipe.schema import Train

DTYPES: dict[Compute, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


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

    def first_layers(self, family: Family, source: Source) -> dict[str, int]:
        """Model that is trained -> its first trained layer.

        Raises:
            BadRecipe: There is no such model, or it has fewer layers.
        """
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

    def set_dropout(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch the dropout of what was attached."""
        ...

    def enable(self, model: nn.Module, *, enabled: bool) -> None:
        """Have what was attached compute, or leave the base as it is. Only of a trainable that freezes it."""
        ...

    def clear(self, model: nn.Module) -> None:
        """Drop activations that a step which failed half way has left."""
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

    @property
    def dtype(self) -> torch.dtype:
        """``compute``, as torch names it."""
        return DTYPES[self.compute]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The family's units with every constant bound."""
        return self.family.bound(self.source, self.objective)

    @cached_property
    def first_layers(self) -> dict[str, int]:
        """Model that is trained -> its first trained layer."""
        return self.trainable.first_layers(self.family, self.source)

    @cached_property
    def cut(self) -> Split:
        """The units, cut into those computed once and those of every step."""
        return split(self.units, self.first_layers)

    def skeleton(self, name: str) -> nn.Module:
        """A model of the base as it is, with true shapes and no weights, on meta."""
        return skeleton(self.family, self.source, name, dtype=self.dtype)

    def require_possible(self) -> None:
        """Raise what the class says, before anything is computed."""
        assert self.cut.live

    @property
    def casts_inputs(self) -> bool:
        """Whether the denoiser's inputs are cast to half precision, and nothing after them."""
        return self.compute != "fp32" and self.trainable.freezes_base

    @property
    def autocasts(self) -> bool:
        """Whether each operation casts what it reads, as the weights are fp32 and the arithmetic is not."""
        return self.compute != "fp32" and not self.trainable.freezes_base
