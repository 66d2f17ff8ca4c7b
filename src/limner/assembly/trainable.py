"""What is trained: adapters of some kind on frozen weights, or every weight of the denoiser.

A further kind is one class with the methods of ``assembly.assemble.Trainable``, a line in ``METHODS`` and one
in ``training.export``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from limner.assembly.assemble import Assembled, ModelSpec, Trainable
from limner.errors import BadRecipe
from limner.imports import imported
from limner.models.family import Family
from limner.models.placeholder import WithoutNewWords
from limner.models.source import Source
from limner.nn import arch
from limner.nn.layers import lora
from limner.nn.layers.adapter import LORA
from limner.nn.rng import Places, seed_of
from limner.recipe.fields import PatternTable
from limner.recipe.schema import Recipe
from limner.recipe.train import Lora, Train


@dataclass(frozen=True)
class LoRA(WithoutNewWords):
    """Adapters on the denoiser and on text encoders, of the kind that ``nn.layers.kinds`` has."""

    config: Lora = field(default_factory=Lora)
    seed: int = 0
    """Of the factors' first values."""
    method: str = field(default="lora", init=False)
    separate: bool = field(default=False, init=False)
    freezes_base: bool = field(default=True, init=False)

    @property
    def sparse(self) -> bool:
        """Whether the recipe lists layers by name: they may stand in some blocks and not in others."""
        return not isinstance(self.config.targets, str) or bool(self.config.ranks)

    def family(self, family: Family) -> Family:
        """The base's own."""
        return family

    def first_layers(self, family: Family, source: Source) -> dict[str, int]:
        """The denoiser as a whole, and the last layers of text encoders. See ``Trainable``."""
        trained = {family.denoiser: 0}
        for name in self.config.text_encoders:
            family.endings(name, "auto")
            layers = family.depth(source, name)
            last = self.config.text_encoder_layers
            if last is not None and last > layers:
                raise BadRecipe(
                    f"lora.text_encoder_layers is {last}; {name} has {layers} layers. "
                    f"Set it to at most {layers}."
                )
            trained[name] = 0 if last is None else layers - last
        return trained

    def still_layers(self, family: Family, source: Source) -> dict[str, int]:
        """The same: no word is new."""
        return self.first_layers(family, source)

    def load_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the run: the adapters are fp32 masters beside it."""
        return dtype

    def layers(self, spec: ModelSpec, name: str, model: nn.Module) -> dict[str, int]:
        """The layers that the recipe's targets match, and their ranks. See ``Trainable``."""
        family = spec.family
        endings = family.endings(name, self.config.targets)
        path = family.layers.get(name, "")
        layer_count = family.depth(spec.source, name) if path else None
        names = lora.matching(model, endings, layers=path, since=spec.first_layers[name], until=layer_count)
        kernels = self.config.conv_rank if name == family.denoiser else None
        layer_ranks = lora.ranks(model, names, self.config.rank, kernels)
        own_ranks = lora.by_pattern(names, self._table(family, name, "ranks"), "lora.ranks")
        return layer_ranks | {layer: int(rank) for layer, rank in own_ranks.items()}

    def _table(self, family: Family, name: str, key: str) -> dict[str, float]:
        """The patterns of a table that are for a model: those of a text encoder begin with its name."""
        table: PatternTable = getattr(self.config, key)
        starts = {encoder: f"{encoder}." for encoder in self.config.text_encoders}
        if name != family.denoiser:
            start = starts[name]
            return {
                text.removeprefix(start): value for text, value in table.items() if text.startswith(start)
            }
        return {text: value for text, value in table.items() if not text.startswith(tuple(starts.values()))}

    def rates(self, spec: ModelSpec, name: str, model: nn.Module) -> dict[str, float]:
        """The multipliers of ``lora.rates``. See ``Trainable``."""
        adapters = lora.attached(model)
        multipliers = lora.by_pattern(adapters, self._table(spec.family, name, "rates"), "lora.rates")
        return {
            f"{layer}.{adapters[layer].names[factor].saved}": multiplier
            for layer, multiplier in multipliers.items()
            for factor in adapters[layer].factors()
        }

    def attach(self, spec: ModelSpec, models: Mapping[str, nn.Module], sample_keys: Places) -> None:
        """Put an adapter on each of :meth:`layers`; step 0 is the base. See ``Trainable``."""
        config = self.config
        kind = LORA
        if config.kind != "lora":
            kind_of = imported("limner.nn.layers.kinds:kind_of")
            kind = kind_of(config.kind, factor=config.factor, full_matrix=config.full_matrix)
        for name in spec.first_layers:
            lora.attach(
                models[name],
                self.layers(spec, name, models[name]),
                rank=config.rank,
                alpha=config.alpha or config.rank,
                dropout=config.dropout,
                seed=seed_of(self.seed, "lora", name),
                places=sample_keys,
                kind=kind,
            )
            self.rates(spec, name, models[name])  # a pattern that matches nothing is said now
            if spec.kind == "cuda":  # it saves launches, of which a CPU has none
                lora.together(models[name])

    def named(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The factors, by peft's and LyCORIS' names."""
        return lora.named(model)

    def set_dropout(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch the adapters' dropout; the frozen model has none."""
        lora.dropping(model, enabled=enabled)

    def enable(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch the adapters."""
        lora.enable(model, enabled=enabled)

    def clear(self, model: nn.Module) -> None:
        """Drop products that pairs share."""
        lora.forget(model)

    def learning_rate(self, train: Train, *, text_encoder: bool) -> float:
        """Text encoders may have one of their own."""
        return (text_encoder and train.text_encoder_learning_rate) or train.learning_rate


class OwnWeights(WithoutNewWords):
    """What the kinds have in common that train a model's own weights: fp32 masters, one rate, no adapters."""

    def load_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """fp32: in half precision small steps are lost in rounding."""
        del dtype
        return torch.float32

    def layers(self, spec: ModelSpec, name: str, model: nn.Module) -> dict[str, int]:
        """None: nothing is put beside a layer."""
        del spec, name, model
        return {}

    def named(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The weights, by their names in the files of the model."""
        return arch.trained_by_name(model)

    def rates(self, spec: ModelSpec, name: str, model: nn.Module) -> dict[str, float]:
        """None: one rate for all weights."""
        del spec, name, model
        return {}

    def set_dropout(self, model: nn.Module, *, enabled: bool) -> None:
        """Nothing: no adapter is there, and the model's own dropout stays off."""

    def clear(self, model: nn.Module) -> None:
        """Nothing is kept between steps."""

    def learning_rate(self, train: Train, *, text_encoder: bool) -> float:
        """One for all weights."""
        del text_encoder
        return train.learning_rate


@dataclass(frozen=True)
class FullFineTune(OwnWeights):
    """Every weight of the denoiser, in fp32 masters."""

    method: str = field(default="full", init=False)
    separate: bool = field(default=False, init=False)
    freezes_base: bool = field(default=False, init=False)
    sparse: bool = field(default=False, init=False)

    def family(self, family: Family) -> Family:
        """The base's own."""
        return family

    def first_layers(self, family: Family, source: Source) -> dict[str, int]:
        """The denoiser as a whole."""
        del source
        return {family.denoiser: 0}

    def still_layers(self, family: Family, source: Source) -> dict[str, int]:
        """The same: no word is new."""
        return self.first_layers(family, source)

    def attach(self, spec: ModelSpec, models: Mapping[str, nn.Module], sample_keys: Places) -> None:
        """Have every floating-point weight take gradients."""
        del sample_keys
        for name in spec.first_layers:
            arch.unfreeze(models[name])

    def enable(self, model: nn.Module, *, enabled: bool) -> None:
        """Nothing: the base is no longer there. The recipe refuses what would need it."""


METHODS = {
    "inversion": "limner.assembly.inversion:inversion_of",
    "instant": "limner.assembly.predictor_training:predictor_training_of",
}
"""``train.method`` that few runs have -> what makes a value of the recipe and the LoRA that it describes."""


def trainable_of(recipe: Recipe) -> Trainable:
    """What a recipe trains.

    Raises:
        BadRecipe: A word is to be learned, and it is not said which.
    """
    method = recipe.train.method
    if method == "full":
        return FullFineTune()
    lora = LoRA(recipe.lora, recipe.seed)
    return imported(METHODS[method])(recipe, lora) if method in METHODS else lora


def require_layers(spec: ModelSpec, meta: Assembled) -> None:
    """Raise ``BadRecipe`` unless a base's denoiser has all the layers of another that are trained.

    Args:
        spec: The base that samples are generated on.
        meta: The models of the run without weights, adapters attached.
    """
    modules = dict(spec.skeleton(spec.family.denoiser).named_modules())
    for name, adapter in lora.attached(meta.denoiser).items():
        shape = tuple(adapter.weight.shape)
        weight: Any = getattr(modules.get(name), "weight", None)
        if weight is None or tuple(weight.shape) != shape:
            size = "none" if weight is None else " x ".join(map(str, weight.shape))
            raise BadRecipe(
                f"sample.base: {spec.source.name} is of another architecture than "
                f"{meta.spec.source.name}: {name} is {' x '.join(map(str, shape))} here and {size} there. "
                'Name another, or set sample.base = "own".'
            )
