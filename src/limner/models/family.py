"""What a model family must say of itself. Data and functions; nothing to inherit from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, cat
from torch.nn.functional import adaptive_avg_pool2d, pad

from limner.data.control import ControlFit
from limner.errors import BadBase, BadRecipe, BrokenGraph
from limner.graph.unit import Unit, check, unit
from limner.models.facts import COMMON, Objective
from limner.models.source import Source
from limner.nn.arch import ArchSpec

INPUTS = ("image", "mask", "frame", "caption", "seed")
"""What the data gives: ``image`` (1, 3, H, W) uint8, ``mask`` (1, 1, H, W) uint8 where 255 counts in full,
``frame`` (1, 6) int64, ``caption`` a tuple of one str, ``seed`` (1,) int64 on the CPU; where there
are control images besides, for the n-th what :class:`Controls` names, (1, 3, h, w) uint8.

``frame`` is where the image stands in its file: height and width of the file's image, top and left of the
crop in pixels of the crop's own scale, height and width of the crop. ``seed`` is that of the start noise of
an image that a teacher sampled.
"""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How the stock pipeline of a family runs guidance."""

    passes: Literal["separate", "in-turn", "negative-first", "positive-first"] = "separate"
    """Two calls of the denoiser, in its cache contexts "cond" and "uncond"; or two without contexts, the
    positive one first; or one call on both batches, one behind the other."""
    off_at: float = 1.0
    """Guidance scale up to which there is no negative pass."""
    distilled: Callable[[Source], bool] = lambda source: False
    """Whether a base has guidance in its weights, so that there is never a negative pass."""
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    """Argument of the denoiser -> which of its axes is that of both batches, where that is not the first."""
    model: str = ""
    """Part that makes the negative pass in the denoiser's place: of its class, without a prompt, never
    trained and loaded for pictures alone. "": the denoiser makes both."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How images are sampled. Sizes in pixels; ``guidance`` None means the base's own."""

    width: int
    height: int
    steps: int
    guidance: float | None = None
    seed: int = 0
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the sampler, over those of its config."""
    controls: tuple[Image.Image, ...] = ()
    """Control images of every prompt, as the family fits them."""

    @property
    def call_kwargs(self) -> dict[str, int]:
        """What every stock pipeline is called with."""
        return {"num_inference_steps": self.steps, "width": self.width, "height": self.height}

    def strength(self, source: Source, default: float) -> float:
        """The guidance wished for; else what the base says of itself; else ``default``, the family's."""
        return source.facts.get("guidance", default) if self.guidance is None else self.guidance


@dataclass(frozen=True, kw_only=True)
class Controls:
    """How a family reads control images: what an edit model is shown beside the caption."""

    maximum: int
    """How many it was made for."""
    fits: Callable[[int], Mapping[str, ControlFit]]
    """Side in pixels of the square that the base was made for -> input -> how large a control image becomes.
    The inputs of the n-th are ``name_n``; the first of them is what the stock pipeline is given."""
    units: tuple[Unit, ...]
    """What is done for each control image. All that they read and write is counted."""
    reads: Mapping[str, str]
    """Unit with a ``*`` parameter -> the value of each control image that it reads there."""
    fitted_by_pipeline: bool = False
    """Whether the stock pipeline is given the file's image, and resizes it as ``fits`` does."""
    text_by_units: bool = False
    """Whether prompts beside them are read by the family's units, in place of the stock pipeline's code."""

    def shown(self, resolution: int, images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        """Control images, as they are in their files, as the stock pipeline is given them."""
        if self.fitted_by_pipeline:
            return tuple(images)
        fit = next(iter(self.fits(resolution).values()))
        return tuple(map(fit.image, images))

    def tensors(self, resolution: int, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Input -> (1, 3, h, w) uint8, of control images as they are in their files."""
        return {
            f"{name}_{number}": torch.from_numpy(np.asarray(fit.image(image)).copy()).permute(2, 0, 1)[None]
            for number, image in enumerate(images, 1)
            for name, fit in self.fits(resolution).items()
        }

    def inputs(self, count: int) -> tuple[str, ...]:
        """Names of the inputs of so many control images."""
        return tuple(f"{name}_{number}" for number in range(1, count + 1) for name in self.fits(1024))

    def into(self, units: Sequence[Unit], count: int) -> tuple[Unit, ...]:
        """The units of a family for so many control images."""
        numbers = range(1, count + 1)
        units_of_controls = tuple(unit.numbered(number) for number in numbers for unit in self.units)
        values = {unit: [f"{value}_{number}" for number in numbers] for unit, value in self.reads.items()}
        return (
            *units_of_controls,
            *(unit.reading(values[unit.name]) if unit.name in values else unit for unit in units),
        )


@unit("loss_weight")
def weigh(mask: Tensor, latent_mean: Tensor, *, mask_floor: float) -> Tensor:
    """What each place of the latent counts in the loss, (B, 1, h, w) in fp32, 1 on average in each image.

    Args:
        mask: (B, 1, H, W) uint8, 255 counts in full; averaged over the pixels of each place.
        latent_mean: (B, C, h, w), whose grid it is.
        mask_floor: What black counts beside white, 0 to 1.
    """
    height, width = latent_mean.shape[-2:]
    share = adaptive_avg_pool2d(mask.float(), (height, width)) / 255
    weight = 1 - (1 - mask_floor) * (1 - share)  # of white exactly 1, whatever the floor
    return weight / weight.mean((2, 3), keepdim=True)


def masked(units: Sequence[Unit], mask_floor: float) -> tuple[Unit, ...]:
    """The units of a family whose loss reads masks: as far as it asks, the weight is a frozen value.

    Raises:
        BrokenGraph: The unit that writes the loss has no ``*`` parameter for weights.
    """
    result: list[Unit] = []
    for member in units:
        if "loss" in member.writes:
            if not member.open_reads:
                raise BrokenGraph(
                    f"{member.name} writes the loss and reads no weights: give it *loss_weights."
                )
            result.append(weigh.bind(mask_floor=mask_floor))
            member = member.reading(weigh.writes)
        result.append(member)
    return tuple(result)


@dataclass(frozen=True, kw_only=True)
class OwnPart:
    """A model that units call and that no base has among its files."""

    load: Callable[[Source, torch.device], Any]
    """In evaluation mode, on a device."""
    skeleton: Callable[[Source], Any]
    """On the meta device."""
    fingerprint: Callable[[], str]
    """Identity of its weights, for addresses of the cache."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Everything Limner knows of one model. A new family is one file that ends in one of these."""

    name: str
    pipeline: str
    """Class in ``model_index.json``: how a folder says which family it is."""
    denoiser: str
    parts: Mapping[str, str]
    """Model name -> 'library:Class'. The folder of a part bears its name."""
    full_precision: tuple[str, ...]
    """Models that always run in fp32, because they are small or fragile."""
    units: tuple[Unit, ...]
    """From :data:`INPUTS` to ``loss`` (B,), in order."""
    text: tuple[str, ...]
    """Values that the denoiser reads of a caption."""
    supported_options: frozenset[str]
    """Fields of :class:`Objective` that this family can grant."""
    constants: Callable[[Source, Objective], Mapping[str, Any]]
    """Constants of the units, from the base's own configs and the recipe's wishes."""
    targets: Mapping[str, tuple[str, ...]]
    """Named groups of layers of the denoiser: endings of module names."""
    text_targets: Mapping[str, tuple[str, ...]]
    """Text encoder -> endings of the linear layers that a LoRA on it trains."""
    layers: Mapping[str, str]
    """Text encoder -> path of its list of layers."""
    model_spec: Callable[[Source], tuple[str, str]]
    """ModelSpec's architecture and sd-scripts' version word of a base, for the metadata of its LoRA files."""
    multiple: int
    """Image sides must be multiples of this, in pixels."""
    pipeline_kwargs: Callable[[Source, SamplingParams], dict[str, Any]]
    """Arguments of the stock pipeline that make it sample so from a prompt."""
    prompt_kwargs: Callable[[Mapping[str, Tensor]], Mapping[str, Any]]
    """From the ``text`` values of a batch to the stock pipeline's arguments that stand for prompts."""
    resolution: int = 1024
    """Side in pixels of the square whose area the base was made for."""
    processors: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Part -> makes of its tokenizer, or of nothing where text is encoded already, what stands for the
    processor of images in a stock pipeline that asks it something while it is made."""
    one_prompt: bool = False
    """Whether what the stock pipeline paints depends on the other prompts of a batch, so that each picture is
    computed alone."""
    pipeline_class: Callable[[], Any] | None = None
    """Gives the class that fills and calls a stock pipeline of modular blocks as others are; None: diffusers'
    own does."""
    encode_prompt: Callable[..., Any] | None = None
    """Stands in for the method of that name of a stock pipeline that takes prompts as text alone: is given
    the pipeline, then all that the method is, with what ``prompt_kwargs`` calls the prompt."""
    padded_values: frozenset[str] = frozenset()
    """Values (1, L, ...) whose length L differs from row to row; in a batch the short ones end in zeros."""
    equal_text_lengths: bool = False
    """Whether the stock pipeline wants prompts and negative prompts of one length, with masks."""
    unused_parts: tuple[str, ...] = ()
    """Parts of the stock pipeline that Limner does without, such as a filter of its pictures."""
    idle_layers: Mapping[str, int] = field(default_factory=dict)
    """Text encoder -> layers at its top that never run, because the family reads an earlier state."""
    distilled: Callable[[Sequence[Unit], int, Mapping[str, Any]], tuple[Unit, ...]] = (
        lambda units, steps, sampler: tuple(units)
    )
    """The units of a student that samples in so many steps, of those with every constant bound."""
    guidance: Guidance = Guidance()
    """How the stock pipeline runs classifier-free guidance."""
    arch: ArchSpec = ArchSpec(blocks=())
    """Where the denoiser's blocks are. Without any, it runs whole or not at all."""
    own_parts: Mapping[str, OwnPart] = field(default_factory=dict)
    """Models beside those of the base: what looks at pictures and writes LoRAs."""
    controls: Controls | None = None
    """How it reads control images; None: it has no place for them."""

    def __post_init__(self) -> None:
        count = self.controls.maximum if self.controls else 0
        inputs = self.controls.inputs(count) if self.controls else ()
        check(self.units_with(count), inputs=(*INPUTS, *inputs))

    @property
    def denoisers(self) -> tuple[str, ...]:
        """The denoiser, and what makes the negative pass in its place where that is another model."""
        return tuple(filter(None, (self.denoiser, self.guidance.model)))

    def control_kwargs(self, params: SamplingParams) -> dict[str, Any]:
        """The stock pipeline's argument that holds control images: one as it is, several as a list."""
        images = list(params.controls)
        return {"image": images if len(images) > 1 else images[0]} if images else {}

    def units_with(self, controls: int) -> tuple[Unit, ...]:
        """The units for so many control images."""
        return self.controls.into(self.units, controls) if self.controls else self.units

    def bound(self, source: Source, objective: Objective, controls: int = 0) -> tuple[Unit, ...]:
        """The units with every constant bound, for so many control images.

        Raises:
            BadBase: The base's configs are missing, or hold values that mean nothing.
            BadRecipe: A wish that this family cannot grant.
        """
        if objective.distill_steps and "distill_steps" not in self.supported_options:
            raise BadRecipe(
                f'train.objective is "distill", and {self.name} is no base that Limner can sample with a '
                'gradient. Set "denoise", or choose a rectified flow, such as FLUX.1.'
            )
        for option in fields(objective):
            value = getattr(objective, option.name)
            if (option.name, value) == ("time_shift", 1.0):
                continue  # it moves nothing, of which any family is capable
            if value != option.default and option.name not in self.supported_options:
                names = ", ".join(
                    f"train.{name}" for name in sorted(self.supported_options - COMMON - {"distill_steps"})
                )
                raise BadRecipe(
                    f"train.{option.name} is {value}, which means nothing for {self.name}. Remove it; "
                    f"{self.name} knows {names}."
                )
        try:
            constants = self.constants(source, objective)
        except (TypeError, ValueError, LookupError) as error:
            raise BadBase(
                f"{source.name}: scheduler/ or {self.denoiser}/ has a config that means nothing ({error}). "
                f"{source.again}"
            ) from error
        units = tuple(unit.bind(**constants, controls=controls) for unit in self.units_with(controls))
        if objective.mask_floor is not None:
            units = masked(units, objective.mask_floor)
        if not objective.distill_steps:
            return units
        return self.distilled(units, objective.distill_steps, source.config("scheduler"))

    def endings(self, model: str, targets: str | Sequence[str]) -> tuple[str, ...]:
        """Module-name endings for a named target group, or for a list of groups and endings.

        A list of exclusions alone leaves them out of "auto".

        Raises:
            BadRecipe: The group or the model is unknown.
        """
        if model != self.denoiser:
            if model not in self.text_targets:
                names = ", ".join(sorted(self.text_targets))
                remedy = f"Known: {names}" if names else "A LoRA trains its denoiser alone; remove it"
                raise BadRecipe(f"lora.text_encoders: {self.name} has no text encoder {model!r}. {remedy}.")
            return self.text_targets[model]
        if not isinstance(targets, str):
            groups = {"auto": self.targets["all-linear"], **self.targets}
            only_exclusions = all(entry.startswith("!") for entry in targets)
            entries = ("auto", *targets) if only_exclusions else targets
            return tuple(ending for entry in entries for ending in groups.get(entry, (entry,)))
        name = "all-linear" if targets == "auto" else targets
        if name not in self.targets:
            names = ", ".join(sorted(self.targets))
            raise BadRecipe(f"lora.targets is {targets!r}; {self.name} has {names}. Or list module endings.")
        return self.targets[name]

    def depth(self, source: Source, encoder: str) -> int:
        """How many layers of a text encoder run.

        Raises:
            BadBase: Its config does not say.
        """
        config = source.config(encoder)
        layers = config.get("num_hidden_layers") or config.get("num_layers")
        if type(layers) is not int:
            raise BadBase(f"{source.name}: {encoder}/config.json says {layers!r:.60} layers. {source.again}")
        return layers - self.idle_layers.get(encoder, 0)

    def check_side(self, name: str, pixels: int | None) -> None:
        """Raise ``BadRecipe`` unless an image side can be had; the stock pipeline would round it down."""
        if pixels is not None and pixels % self.multiple:
            near = max(1, round(pixels / self.multiple)) * self.multiple
            raise BadRecipe(
                f"{name} is {pixels}; {self.name} makes multiples of {self.multiple}. Set {near}."
            )

    def has_negative_pass(self, source: Source, guidance: float | None) -> bool:
        """Whether the stock pipeline runs the denoiser twice at each step, on the negative prompt too.

        Args:
            source: The base.
            guidance: The scale; None is the base's own.
        """
        params = SamplingParams(width=self.multiple, height=self.multiple, steps=1, guidance=guidance)
        options = self.pipeline_kwargs(source, params)
        return not self.guidance.distilled(source) and guidance_of(options) > self.guidance.off_at

    def require_negative_pass(self, source: Source, guidance: float | None, option: str) -> None:
        """Raise ``BadRecipe`` where an option needs a negative branch and there is none.

        Args:
            source: The base.
            guidance: The scale; None is the base's own.
            option: As the person wrote it.
        """
        if self.guidance.distilled(source):
            raise BadRecipe(
                f"{option}: {source.name} is guidance-distilled and has no negative branch. Remove it."
            )
        if not self.has_negative_pass(source, guidance):
            raise BadRecipe(
                f"{option} needs a negative branch, and {source.name} has one at a guidance above "
                f"{self.guidance.off_at:g}. Set such a guidance, or remove it."
            )

    def library(self, part: str) -> tuple[str, str]:
        """The library and class that load a part."""
        if part not in self.parts:
            raise BadBase(f"{self.name} has no model {part!r}; it has {', '.join(self.parts)}.")
        library, _, kind = self.parts[part].partition(":")
        return library, kind


def guidance_of(options: Mapping[str, Any]) -> float:
    """The scale of guidance that a stock pipeline is called with: where it changes on the way, the first."""
    scale = options.get("true_cfg_scale", options.get("guidance_scale", 1.0))
    return options["guidance_schedule"][0] if scale is None else scale


def pad_collate(rows: Sequence[Tensor]) -> Tensor:
    """Rows (1, L_i, ...) -> (B, L, ...), L the longest: shorter ones end in zeros (False, for masks)."""
    longest = max(row.shape[1] for row in rows)
    return cat([pad(row, (0, 0) * (row.ndim - 2) + (0, longest - row.shape[1])) for row in rows])


def mask_or_none(mask: Tensor) -> Tensor | None:
    """A mask (B, L), or None when it hides nothing: attention without a mask is faster, and the same."""
    return None if bool(mask.all()) else mask
