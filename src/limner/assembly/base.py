"""A recipe and the base that it names, resolved once: what every verb knows before it reads an image.

No torch: a plan whose profile is known is made from this alone. :attr:`ResolvedBase.spec`, which describes
the models, loads it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.data.control import ControlFit, counted_controls
from limner.data.order import whole_ratio
from limner.data.views import Scale, buckets
from limner.errors import BadRecipe
from limner.imports import swiftly
from limner.lora.location import locate_base
from limner.models.facts import Objective
from limner.models.registry import facts_of, named_base, twin_of
from limner.models.source import Source
from limner.nn.memory.plan import Compute, Kind
from limner.recipe.schema import Data, Recipe

if TYPE_CHECKING:
    from limner.assembly.assemble import ModelSpec
    from limner.models.family import Family

PENDING = Path("the LoRA of the images before")
"""Stands for the adapter of a second phase in a plan that is made before the first."""


@dataclass(frozen=True)
class Shape:
    """The sizes that a base is made for."""

    multiple: int
    """Image sides are multiples of this, in pixels."""
    resolution: int
    """Side in pixels of the square whose area the base was made for."""


@dataclass(frozen=True)
class ImageSizes:
    """The sizes that images get, by a recipe and a base."""

    data: Data
    shape: Shape

    @property
    def resolution(self) -> int:
        """Side in pixels of the square whose area images get, of several the largest."""
        return max(self.resolutions)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All of them: the recipe's, or the base's own."""
        sides = self.data.resolution or self.shape.resolution
        return sides if isinstance(sides, tuple) else (sides,)

    @property
    def min_side(self) -> int:
        """Pixels that the short side of an image needs: the recipe's, or half of the smallest resolution."""
        return min(self.resolutions) // 2 if self.data.min_side is None else self.data.min_side

    @property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """(width, height) in pixels that an image may be cropped to at the largest resolution."""
        return self.scales[-1].buckets

    @cached_property
    def scales(self) -> tuple[Scale, ...]:
        """Every resolution with its buckets and its draws, from the smallest to the largest."""
        shares = self.data.resolution_shares or (1.0,) * len(self.resolutions)
        return tuple(
            Scale(buckets(side, multiple=self.shape.multiple), draws)
            for side, draws in sorted(zip(self.resolutions, whole_ratio(shares), strict=True))
        )


@dataclass(frozen=True)
class SampleBase:
    """The base whose denoiser generates samples, and how it does."""

    source: Source
    steps: int
    guidance: float | None
    """None: the base's own."""


def sample_settings(recipe: Recipe) -> tuple[str, int, float | None]:
    """The name of the base that samples are generated on, their steps and their guidance; None is its own.

    Raises:
        BadRecipe: The twin is asked for, and there is none.
    """
    sample = recipe.sample
    if sample.base == "own":
        return recipe.base, recipe.sample_steps, recipe.sample_guidance
    name = sample_base_of(recipe.base, sample.base, "sample.base")
    steps, distilled = few_steps(name, sample.steps)
    return name, steps, None if distilled else sample.guidance


def sample_base_of(base: str, name: str, option: str) -> str:
    """The name of the base that "twin", or another name, means for a base.

    Raises:
        BadRecipe: The twin is asked for, and there is none.
    """
    if name != "twin":
        return name
    twin = twin_of(base)
    if twin is None:
        raise BadRecipe(
            f'{option} is "twin", and {base} has no registered twin. Name a base of the same architecture, '
            f"or remove {option}."
        )
    return twin.name


def few_steps(name: str, steps: int) -> tuple[int, bool]:
    """Steps, at most those that a base was distilled to; and whether it was."""
    base = named_base(name)
    return (min(steps, base.steps), True) if base and base.steps else (steps, False)


@dataclass(frozen=True, kw_only=True)
class ResolvedBase:
    """What follows from a recipe and its base, for one sort of device."""

    recipe: Recipe
    source: Source
    shape: Shape
    kind: Kind
    """Sort of the device."""
    compute: Compute
    """Precision of the arithmetic there."""

    @cached_property
    def family(self) -> "Family":
        """What computes it; asking loads torch.

        Raises:
            BadBase: The base is of no family here.
        """
        return family_at(self.source)

    @cached_property
    def sizes(self) -> "ImageSizes":
        """The sizes that images get."""
        return ImageSizes(self.recipe.data, self.shape)

    @property
    def resolution(self) -> int:
        """Side in pixels of the square whose area images get."""
        return self.sizes.resolution

    @cached_property
    def controls(self) -> int:
        """Control images of each image, by the names of files; where there are no images yet, what it needs.

        Raises:
            BadData: A folder of them is missing, or none of them bears the name of an image.
            BadRecipe: The family reads none, or another number.
        """
        facts = facts_of(str(self.source.index.get("_class_name", "")))
        minimum, maximum = facts.controls if facts else (0, 0)
        entries, name = self.recipe.data.folders, facts.name if facts else self.source.name
        if not maximum:
            if any(entry.control for entry in entries):
                raise BadRecipe(
                    f"data.control names control images, and {name} reads none. Remove it, or choose an edit "
                    "model such as flux-kontext."
                )
            return 0
        existing = [entry for entry in entries if entry.images is not None and entry.images.is_dir()]
        if not existing:
            return max(minimum, *(len(entry.control) for entry in entries))
        count = max(counted_controls(entry.images or Path(), entry.control) for entry in existing)
        if count < minimum:
            raise BadRecipe(
                f"{name} is an edit model and needs control images. Name their folder as data.control, or "
                "name them in metadata.jsonl, in a column control."
            )
        if count > maximum:
            raise BadRecipe(
                f"The images have {count} control images each, and {name} reads at most {maximum}. Name "
                "fewer folders as data.control, or fewer images in the metadata."
            )
        prior = self.recipe.prior
        if count and (prior.images is not None or prior.prompts):
            raise BadRecipe(
                f"Images of {name} have control images, and class images have none: it cannot train on both. "
                "Remove prior.images and prior.prompts."
            )
        return count

    @property
    def control_fit(self) -> ControlFit | None:
        """How large control images become for the denoiser; None where the family reads none."""
        controls = self.spec.family.controls
        return next(iter(controls.fits(self.shape.resolution).values())) if controls else None

    @cached_property
    def objective(self) -> Objective:
        """What of the recipe changes what is learned."""
        words: dict[Any, Any] = {"auto": None, "none": 1.0}
        train = self.recipe.train
        values = {field.name: getattr(train, field.name, field.default) for field in fields(Objective)}
        values |= {"distill_steps": self.recipe.distill.steps if train.objective == "distill" else 0}
        values |= {"mask_floor": None if self.recipe.data.masks is None else train.mask_floor}
        return Objective(**{name: words.get(value, value) for name, value in values.items()})

    @cached_property
    def spec(self) -> "ModelSpec":
        """The models, and what of them is trained.

        Raises:
            BadBase: The base is of no family here.
            BadRecipe: A side of the samples cannot be generated, a LoRA is for a branch that is not there, or
                the training adapter does not fit.
            BadLora: There is no such adapter.
        """
        with swiftly():
            from limner.assembly.assemble import ModelSpec
            from limner.assembly.trainable import trainable_of
            from limner.assembly.training_adapter import pending_adapter, training_adapter

        family = self.family
        for side in ("width", "height"):
            family.check_side(f"sample.{side}", getattr(self.recipe.sample, side))
        if self.recipe.sample.lora_on == "positive" and self.recipe.sample.base == "own":
            guidance = self.recipe.sample.guidance
            family.require_negative_pass(self.source, guidance, 'sample.lora_on = "positive"')
        trainable = trainable_of(self.recipe)
        spec = ModelSpec(
            family=trainable.family(family),
            source=self.source,
            trainable=trainable,
            objective=self.objective,
            compute=self.compute,
            kind=self.kind,
            controls=self.controls,
        )
        denoiser = family.denoiser
        if self.recipe.train.adapter == str(PENDING):  # a plan of the second phase, before the first
            model = spec.skeleton(denoiser)
            return replace(spec, adapter=pending_adapter(spec.trainable.layers(spec, denoiser, model), model))
        if not (adapter := self.recipe.train.adapter):
            return spec
        return replace(
            spec, adapter=training_adapter(adapter, family.name, denoiser, spec.skeleton(denoiser))
        )

    def sample_base(self, tell: Callable[[str], None]) -> SampleBase:
        """What samples are generated on; its weights are fetched.

        Args:
            tell: Hears of a download before it starts.

        Raises:
            BadBase: It cannot be opened.
            BadRecipe: It is of another family, or has no branch that the LoRA could be left off.
        """
        sample = self.recipe.sample
        name, steps, guidance = sample_settings(self.recipe)
        if sample.base == "own" or sample.every == -1:
            return SampleBase(self.source, steps, guidance)
        source = locate_base(name, tell)
        family = family_at(source)
        if family.name != self.spec.family.name:
            raise BadRecipe(
                f"sample.base is {name}, of the family {family.name}, and {self.source.name} is "
                f'{self.spec.family.name}. Name a base of that family, or set sample.base = "own".'
            )
        if sample.lora_on == "positive":
            family.require_negative_pass(source, guidance, 'sample.lora_on = "positive"')
        return SampleBase(source, steps, guidance)


def fp16_of(source: Source, compute_dtype: str = "auto") -> bool:
    """Whether a base computes in fp16.

    Raises:
        BadRecipe: It does not, and ``limits.compute_dtype`` asks for it.
    """
    facts = facts_of(str(source.index.get("_class_name", "")))
    able = facts is not None and facts.fp16
    if compute_dtype == "fp16" and facts is not None and not able:
        raise BadRecipe(
            f'limits.compute_dtype is "fp16", which ends at 65504, and {facts.name} is not known to stay '
            'below it. Set "auto", "bf16" or "fp32".'
        )
    return able


def family_at(source: Source) -> "Family":
    """The family of a base.

    Raises:
        BadBase: No family here has its pipeline.
    """
    with swiftly():
        from limner.models.registry import family_of

        return family_of(str(source.index.get("_class_name", "")))


def shape_at(source: Source, family: "Family | Shape") -> Shape:
    """The sizes of a base, of a family or of sizes that all of the family share but for the resolution."""
    return Shape(family.multiple, int(source.facts.get("resolution", family.resolution)))
