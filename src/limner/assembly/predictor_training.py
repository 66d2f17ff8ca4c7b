"""What is trained: a predictor, which stands before the frozen base and writes a LoRA for each row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from limner.assembly.assemble import ModelSpec
from limner.hyper.train import MODEL, Experts, Learning, bound_layers, predicting
from limner.models.family import Family
from limner.models.placeholder import WithoutNewWords
from limner.models.source import Source
from limner.nn import arch
from limner.nn.layers import per_sample
from limner.nn.rng import Places, seed_of
from limner.recipe.instant import Instant
from limner.recipe.train import Lora, Train


@dataclass(frozen=True)
class PredictorTraining(WithoutNewWords):
    """A predictor (``hyper.predictor``), in fp32; the base is frozen, and may be quantized and streamed."""

    lora: Lora
    """Rank and layers of what it writes."""
    instant: Instant
    seed: int = 0
    method: str = field(default="instant", init=False)
    freezes_base: bool = field(default=True, init=False)
    sparse: bool = field(default=False, init=False)
    separate: bool = field(default=True, init=False)

    @cached_property
    def learning(self) -> Learning:
        """The same, as ``hyper.train`` takes it."""
        instant = self.instant
        return Learning(
            endings=lambda family: family.endings(family.denoiser, self.lora.targets),
            rank=self.lora.rank,
            encoders=instant.encoders,
            encoder_folder=str(instant.encoder_folder or ""),
            side=instant.side,
            width=instant.width,
            bottleneck=instant.bottleneck,
            guidance=instant.guidance,
            experts=instant.experts,
            seed=seed_of(self.seed, MODEL),
        )

    def family(self, family: Family) -> Family:
        """With what looks at references, and the predictor, before the base's units. See ``Trainable``."""
        return predicting(family, self.learning)

    def first_layers(self, family: Family, source: Source) -> dict[str, int]:
        """The predictor as a whole."""
        del family, source
        return {MODEL: 0}

    def still_layers(self, family: Family, source: Source) -> dict[str, int]:
        """The same: no word is new."""
        return self.first_layers(family, source)

    def load_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """fp32: its weights are the masters."""
        del dtype
        return torch.float32

    def layers(self, spec: ModelSpec, name: str, model: nn.Module) -> dict[str, int]:
        """None: what is trained stands beside no layer."""
        del spec, name, model
        return {}

    def attach(self, spec: ModelSpec, models: Mapping[str, nn.Module], sample_keys: Places) -> None:
        """Have the predictor take gradients, and the denoiser a LoRA for each row. See ``Trainable``."""
        del sample_keys
        predictor = models[MODEL]
        assert isinstance(predictor, Experts)
        arch.unfreeze(predictor.learner)
        if (denoiser := models.get(spec.family.denoiser)) is not None:
            per_sample.attach(denoiser, bound_layers(predictor))

    def named(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The weights of the predictor that learns."""
        return arch.trained_by_name(model)

    def rates(self, spec: ModelSpec, name: str, model: nn.Module) -> dict[str, float]:
        """None: one rate for all weights."""
        del spec, name, model
        return {}

    def set_dropout(self, model: nn.Module, *, enabled: bool) -> None:
        """Nothing: it has none."""

    def enable(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch the LoRAs that are bound to a denoiser."""
        per_sample.enable(model, enabled=enabled)

    def clear(self, model: nn.Module) -> None:
        """Nothing: the next step binds other LoRAs."""

    def learning_rate(self, train: Train, *, text_encoder: bool) -> float:
        """One for all weights."""
        del text_encoder
        return train.learning_rate
