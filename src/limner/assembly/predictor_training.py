"""What is trained: a predictor, which stands before the frozen base and writes a LoRA for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from limner.assembly.assemble import ModelSpec, Trainable
from limner.assembly.datasets import Division, Sets
from limner.assembly.trainable import OwnWeights
from limner.data.folder import Example
from limner.data.order import SUBSET, held_out
from limner.data.styles import IMAGES_PER_STYLE, StyleOrder, hold_out_styles, styles_of
from limner.data.views import View
from limner.errors import BadData
from limner.graph.unit import Unit
from limner.hyper.train import MODEL, Experts, Learning, bound_layers, predicting, predictor_hash, show
from limner.models.family import Family
from limner.models.source import Source
from limner.nn import arch
from limner.nn.layers import per_sample
from limner.nn.rng import Places, seed_of
from limner.recipe.schema import Data, Recipe
from limner.recipe.train import Instant, Lora


@dataclass(frozen=True)
class PredictorTraining(OwnWeights):
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
            vae_side=instant.vae_side or instant.side,
            width=instant.width,
            bottleneck=instant.bottleneck,
            detail=instant.detail,
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

    def attach(self, spec: ModelSpec, models: Mapping[str, nn.Module], sample_keys: Places) -> None:
        """Have the predictor take gradients, and the denoiser a LoRA for each row. See ``Trainable``."""
        del sample_keys
        predictor = models[MODEL]
        assert isinstance(predictor, Experts)
        arch.unfreeze(predictor.learner)
        if (denoiser := models.get(spec.family.denoiser)) is not None:
            per_sample.attach(denoiser, bound_layers(predictor))

    def enable(self, model: nn.Module, *, enabled: bool) -> None:
        """Switch the LoRAs that are bound to a denoiser; of experts, what is trained of them."""
        if isinstance(model, Experts):
            model.learns = enabled
        else:
            per_sample.enable(model, enabled=enabled)

    def shape(self) -> dict[str, Any]:
        """The sizes of the predictor, and what stands beside it, by content. See ``Trainable``."""
        instant = self.instant
        sizes = {
            key: getattr(instant, key) for key in ("side", "width", "bottleneck", "group", "static_steps")
        }
        lists = {key: [*getattr(instant, key)] for key in ("encoders", "references")}
        experts = [predictor_hash(path) for path in instant.experts]
        vae = {key: getattr(instant, key) for key in ("detail", "vae_side") if getattr(instant, key)}
        vae |= {"target": "base"} if instant.target == "base" else {}
        return {"predictor": {**sizes, **vae, **lists, "experts": experts}}

    def show(
        self, units: Sequence[Unit], models: Mapping[str, Any], values: Mapping[str, Any], denoiser: nn.Module
    ) -> None:
        """Bind what the predictor writes of the looks among some values. See ``Trainable``."""
        show(units, models, values, denoiser)


def predictor_training_of(recipe: Recipe, lora: Trainable) -> PredictorTraining:
    """What a recipe of a predictor trains; the LoRAs that it writes are described in the recipe as others."""
    del lora
    return PredictorTraining(recipe.lora, recipe.instant, recipe.seed)


def style_order(views: Sequence[View], recipe: Recipe, *, kept: bool = False) -> StyleOrder:
    """Which of some views each step sees, style by style.

    Args:
        views: Of all pictures.
        recipe: What a person decides.
        kept: Whether they are the prior's, of which the LoRAs keep their effect.
    """
    return StyleOrder(
        views,
        batch=recipe.prior.batch if kept else recipe.train.batch,
        group=recipe.instant.group,
        references=recipe.instant.references,
        seed=seed_of(recipe.seed, "prior") if kept else recipe.seed,
        caption_dropout=0.0 if kept else recipe.data.caption_dropout,
        static_steps=recipe.instant.static_steps,
    )


def hold_out_of_styles(data: Data, sets: Sets) -> Division:
    """The images of all styles divided, whole styles at a time.

    A style is a folder that holds pictures; ``data.validation_count`` counts styles.

    Raises:
        BadData: A style has one picture; or none is left to train on; or one is both trained and held out.
    """
    examples = list(sets.joined.examples)
    if sets.validation:
        contents = {example.sha256 for example in examples}
        held_out_examples = [example for folder in sets.validation for example in folder.examples]
        if overlap := [example for example in held_out_examples if example.sha256 in contents]:
            raise BadData(
                f"{overlap[0].path} is in data.validation_images and is trained on as well. Remove it from "
                "one of the two folders."
            )
        return examples, _first_images(held_out_examples), True, ()
    styles = styles_of(examples)
    count = held_out(len(styles), data.validation_count)
    folders = hold_out_styles(examples, count)
    if not folders:
        return examples, _first_images(examples)[:SUBSET], False, ()
    names = ", ".join(sorted(folder.name for folder in folders))
    return (
        [example for example in examples if example.path.parent not in folders],
        _first_images([example for example in examples if example.path.parent in folders]),
        True,
        (f"Held out: {len(folders)} of {len(styles)} styles ({names:.200}).",),
    )


def _first_images(examples: Sequence[Example]) -> list[Example]:
    """Of each style the first pictures: each is measured beside the others."""
    return [example for images in styles_of(examples).values() for example in images[:IMAGES_PER_STYLE]]
