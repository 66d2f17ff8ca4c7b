"""A recipe made concrete on this machine: base, device, images, views, and where the graph is cut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import TypeAdapter

from limner.assembly.assemble import ModelSpec
from limner.assembly.base import ResolvedBase, SampleBase, family_at, fp16_of, shape_at
from limner.assembly.datasets import class_images, hold_out_of_sets, read_sets, what_sets_hold
from limner.data.folder import Example, Folder, Rejected
from limner.data.order import Order, SampledView
from limner.data.subject import MAX_CROP_LOSS, REMEDY, SLACK, crops, follows, slack
from limner.data.summary import not_filling
from limner.data.views import Crops, View, require_filled, require_pairs, smallest_sizes, views
from limner.errors import BadRecipe
from limner.files import shared_cache
from limner.graph.unit import Split
from limner.imports import imported, keep, uncollected
from limner.lora.location import locate_base
from limner.models.facts import Objective
from limner.models.family import Family
from limner.models.source import Source
from limner.nn.memory.offload import require_kernels
from limner.nn.memory.plan import HALVES, Compute, Kind, Plan
from limner.nn.rng import seed_of
from limner.recipe.schema import Recipe


def cache_root(recipe: Recipe) -> Path:
    """Where frozen values are kept: the recipe's choice, or the user's cache folder, shared between runs."""
    return recipe.data.cache or shared_cache()


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Everything that the verbs derive from a recipe before they load a weight. Nothing looks it up again."""

    base: ResolvedBase
    sample_base: SampleBase
    """What samples are generated on."""
    folder: Folder
    """Of several sets all of them joined."""
    folders: tuple[Folder, ...]
    """Of each set."""
    rejected: tuple[Rejected, ...]
    """What was left out, among the validation images as well."""
    views: tuple[View, ...]
    """What training draws from: views of the person's images, then those of class images."""
    class_views: int = 0
    """How many of the views are of class images, or of own images that the teacher is asked about."""
    poles: int = 0
    """How many views, at the end, show the own ones under the prompts of a slider: first all under the
    positive one, then all under the negative one."""
    held_out: tuple[View, ...]
    """What the validation loss is measured on."""
    truly_held_out: bool
    """False when the validation views are a fixed subset of the training images."""
    notes: tuple[str, ...] = ()
    """What a person should know of what was held out."""
    encode_tiled: bool = False
    """The plan's: images larger than a tile are encoded in tiles. Addresses keep them apart."""
    encode_streamed: bool = False
    """The plan's: encoders that fill the cache come to the device layer by layer."""
    encode_mapped: bool = False
    """The plan's: such encoders lie in files meanwhile."""

    def planned(self, plan: Plan) -> "Resolved":
        """The same, with the cache filled as a plan says."""
        return replace(
            self,
            encode_tiled=plan.encode_tiled,
            encode_streamed=plan.encode_streamed,
            encode_mapped=plan.encode_mapped,
        )

    def with_class_images(self, folder: Path) -> "Resolved":
        """The same, with pictures that keep what the base knows; there were none before.

        Raises:
            BadData: A caption has the trigger in it, which would teach the trigger to mean nothing.
        """
        new_views = _all_views(self.base, class_images(self.recipe, folder))
        return replace(self, views=self.views + new_views, class_views=len(new_views))

    @property
    def recipe(self) -> Recipe:
        """What a person decided."""
        return self.base.recipe

    @property
    def source(self) -> Source:
        """The base's files."""
        return self.base.source

    @property
    def samples_elsewhere(self) -> bool:
        """Whether samples are generated on another base than the one that is trained on."""
        return self.sample_base.source is not self.source

    @property
    def resolution(self) -> int:
        """Side in pixels of the square whose area the images get."""
        return self.base.resolution

    @property
    def objective(self) -> Objective:
        """What of the recipe changes what is learned."""
        return self.base.objective

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return torch.device(self.base.kind)

    @property
    def spec(self) -> ModelSpec:
        """The models, and what of them is trained."""
        return self.base.spec

    @property
    def family(self) -> Family:
        """The family of the base."""
        return self.spec.family

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the arithmetic."""
        return self.spec.dtype

    @property
    def cut(self) -> Split:
        """What is computed once, and what on every step."""
        return self.spec.cut

    @property
    def first_layers(self) -> dict[str, int]:
        """Model that is trained -> its first trained layer."""
        return self.spec.first_layers

    @property
    def remarks(self) -> list[str]:
        """What a person should know of the data before anything is computed, a line each."""
        lines = [f"Left out: {self.folder.named(entry.path)}: {entry.reason}" for entry in self.rejected]
        lines += what_sets_hold(self.recipe.data, self.folders, self.own)
        lines += not_filling(self.folder.examples, self.base.sizes.scales)
        lines += self.notes
        lines += self._crop_losses()
        if self.recipe.data.crop == "auto" and not follows("auto"):
            sizes = smallest_sizes((*self.own, *self.held_out))
            if cut := sum(slack(example, size) >= SLACK for example, size in sizes.items()):
                lines.append(
                    f"{cut} of {len(sizes)} images are longer than their bucket and keep their middle; crops "
                    f"that follow the subject need the extra. {REMEDY}"
                )
        return lines

    def _crop_losses(self) -> list[str]:
        """A line on images of which the crop takes more than a quarter."""
        sizes = smallest_sizes((*self.own, *self.held_out))
        losses = {example: slack(example, size) for example, size in sizes.items()}
        largest = sorted((e for e in losses if losses[e] > MAX_CROP_LOSS), key=lambda e: -losses[e])
        if not largest:
            return []
        names = ", ".join(
            f"{self.folder.named(example.path)} {losses[example]:.0%}" for example in largest[:3]
        )
        return [
            f"{len(largest)} of {len(losses)} images lose more than a quarter to the crop of their bucket "
            f"({names}{', ..' * (len(largest) > 3)}). Crop them yourself, or say what counts in .crop files."
        ]

    @property
    def own(self) -> tuple[View, ...]:
        """Views of the person's images."""
        return self.views[: len(self.views) - self.class_views - self.poles]

    @cached_property
    def held_out_references(self) -> Mapping[int, tuple[int, ...]]:
        """Number of a validation view -> rows of the pictures that a predictor looks at; none without one."""
        if self.recipe.train.method != "instant":
            return {}
        others_of = imported("limner.data.styles:others_of")
        return others_of(self.held_out, len(self.views), max(self.recipe.instant.references))

    def measured(self, number: int) -> SampledView:
        """A validation view, with the references that a predictor looks at."""
        return SampledView(0, len(self.views) + number, self.held_out_references.get(number, ()))

    @property
    def order(self) -> Order:
        """Which of the own views each step sees; of a predictor, styles (``data.styles.StyleOrder``)."""
        recipe = self.recipe
        if recipe.train.method == "instant":
            return imported("limner.assembly.predictor_training:style_order")(self.own, recipe)
        return Order(
            self.own, batch=recipe.train.batch, seed=recipe.seed, caption_dropout=recipe.data.caption_dropout
        )

    @property
    def class_order(self) -> Order | None:
        """Which views of class images each step sees, counted from the first; of a predictor, styles."""
        recipe = self.recipe
        if not self.class_views:
            return None
        if recipe.train.method == "instant":
            style_order = imported("limner.assembly.predictor_training:style_order")
            return style_order(self.views[-self.class_views :], recipe, kept=True)
        return Order(
            self.views[-self.class_views :],
            batch=recipe.prior.batch,
            seed=seed_of(recipe.seed, "prior"),
            caption_dropout=0.0 if recipe.prior.taught else recipe.data.caption_dropout,
        )


def device_of(choice: str) -> torch.device:
    """The device that a recipe asks for.

    Raises:
        BadRecipe: It is asked for by name and is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(n for n, ok in available.items() if ok) if choice == "auto" else choice
    if not available[name]:
        raise BadRecipe(
            f'limits.device is "{name}", and torch {torch.__version__} sees none. Set "auto" or "cpu".'
        )
    return torch.device(name)


def precision_of(choice: str, device: torch.device, *, fp16: bool) -> Compute:
    """bf16 where a GPU has it, else fp16 where GPU and base are up to it, else fp32; or what the recipe says.

    Args:
        choice: ``limits.compute_dtype``.
        device: Where.
        fp16: Whether the base computes in fp16.

    Raises:
        BadRecipe: It says fp16, and torch has no kernels for it on this processor.
    """
    if choice == "fp16" and device.type == "cpu":
        require_kernels(device)
    if choice != "auto":
        return TypeAdapter(Compute).validate_python(choice)
    if device.type != "cuda":
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if fp16 and torch.cuda.get_device_capability(device) >= HALVES["fp16"] else "fp32"


def resolve_base(recipe: Recipe, tell: Callable[[str], None] = lambda line: None) -> ResolvedBase:
    """Open the base that a recipe names, for this machine. Loads no weights, reads no image.

    Args:
        recipe: What a person decides.
        tell: Hears of a download before it starts.

    Raises:
        BadBase: It cannot be opened.
        BadRecipe: The device is not there.
    """
    return _described(recipe, locate_base(recipe.base, tell, recipe.components_from))


def before_images(recipe: Recipe) -> Resolved | None:
    """A run as its recipe and the configs of its base describe it: nothing is fetched, no image is read.

    None where nothing stands between a recipe and what is wrong with it: the base is here, and generates no
    images before it is trained.

    Raises:
        BadRecipe: The family cannot do what is asked.
    """
    is_here = imported("limner.models.hub:on_this_disk")(recipe.base)
    if is_here and not (recipe.distill.prompts or recipe.slider.neutral):
        return None
    source = (
        locate_base(recipe.base, components_from=recipe.components_from)
        if is_here
        else imported("limner.models.bundled:known")(recipe.base)
    )
    base = _described(recipe, source)
    return Resolved(
        base=base,
        sample_base=SampleBase(source, recipe.sample_steps, recipe.sample_guidance),
        folder=Folder(Path(), "none", (), ()),
        folders=(),
        rejected=(),
        views=(),
        held_out=(),
        truly_held_out=False,
    )


def _described(recipe: Recipe, source: Source) -> ResolvedBase:
    """A base whose configs are here, for this machine."""
    family = family_at(source)
    limits = recipe.limits
    device = device_of(limits.device)
    kind: Kind = "cuda" if device.type == "cuda" else "mps" if device.type == "mps" else "cpu"
    return ResolvedBase(
        recipe=recipe,
        source=source,
        shape=shape_at(source, family),
        kind=kind,
        compute=precision_of(limits.compute_dtype, device, fp16=fp16_of(source, limits.compute_dtype)),
    )


@uncollected()
def resolve(recipe: Recipe, tell: Callable[[str], None] = lambda line: None) -> Resolved:
    """Read the folder, open the base's configs, and cut the graph. Loads no weights.

    Args:
        recipe: What a person decides.
        tell: Hears of a download before it starts.

    Raises:
        LimnerError: The recipe, the base or the folder cannot be used.
    """
    base = resolve_base(recipe, tell)
    data = recipe.data
    base.spec.require_possible()
    sets = read_sets(base)
    of_styles = recipe.train.method == "instant"
    divide = (
        imported("limner.assembly.predictor_training:hold_out_of_styles") if of_styles else hold_out_of_sets
    )
    train_examples, validation_examples, disjoint, notes = divide(data, sets)
    if data.tag_shuffle or data.tag_dropout:
        train_examples = imported("limner.data.tags:with_variants")(train_examples, data, recipe.seed)
    if recipe.train.patience is not None and not disjoint:
        raise BadRecipe(
            f"train.patience is {recipe.train.patience}, and no image is held out: the validation loss of "
            "images that are trained on only falls. Set data.validation_count = 2, or data.validation_images."
        )
    require_filled(sets.joined.examples, base.sizes.scales, base.sizes.resolutions)
    if recipe.train.objective == "distill":
        require_pairs([*train_examples, *validation_examples], base.sizes.scales)
    cuts = crops({*train_examples, *validation_examples}, base.sizes.scales) if follows(data.crop) else {}
    resolved = Resolved(
        base=base,
        sample_base=base.sample_base(tell),
        folder=replace(sets.joined, index=None),  # which is large, and has served
        folders=tuple(replace(folder, index=None) for folder in sets.folders),
        rejected=(*sets.joined.rejected, *(entry for other in sets.validation for entry in other.rejected)),
        views=_all_views(base, train_examples, cuts),
        held_out=_plain(_all_views(base, validation_examples, cuts)),
        truly_held_out=disjoint,
        notes=notes,
    )
    keep(len(resolved.views))
    return resolved


def _all_views(
    base: ResolvedBase, examples: Sequence[Example], cuts: Crops | None = None
) -> tuple[View, ...]:
    """Every view that training may draw."""
    data, scales = base.recipe.data, base.sizes.scales
    options = {"dropout": data.caption_dropout > 0, "fit": base.control_fit, "crops": cuts}
    return tuple(
        view
        for number, entry in enumerate(data.folders)
        for view in views(
            [example for example in examples if example.dataset == number],
            scales=scales,
            flip=bool(entry.flip),
            **options,
        )
    )


def _plain(all_views: tuple[View, ...]) -> tuple[View, ...]:
    """The first view of each example, which is in its largest bucket."""
    first: dict[tuple[int, str], View] = {}
    for view in all_views:
        first.setdefault((view.example.dataset, view.example.sha256), view)
    return tuple(first.values())
