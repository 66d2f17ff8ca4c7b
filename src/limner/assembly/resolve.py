"""A recipe made concrete on this machine: base, device, examples, views, units, and where they are cut."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from limner import bases
from limner.data.buckets import buckets
from limner.data.folder import Example, Folder, Rejected, read_folder
from limner.data.order import Order
from limner.data.subject import REMEDY, SLACK, crops, follows, slack
from limner.data.validation import SUBSET, held_out
from limner.data.views import View, views
from limner.errors import BadBase, BadData, BadRecipe
from limner.files import shared_cache
from limner.graph.split import Split, split
from limner.graph.unit import Unit
from limner.models import convert, family_of
from limner.models.family import Family, Objective
from limner.models.source import Source, locate
from limner.nn.rng import seed_of
from limner.planning.plan import Plan
from limner.recipe.schema import Recipe


def cache_root(recipe: Recipe) -> Path:
    """Where frozen values are kept: the recipe's choice, or the user's cache folder, shared between runs."""
    return recipe.data.cache or shared_cache()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that the verbs derive from a recipe before they load a weight."""

    recipe: Recipe
    source: Source
    family: Family
    device: torch.device
    dtype: torch.dtype
    resolution: int
    folder: Folder
    rejected: tuple[Rejected, ...]
    """What was left out, among the held-out images as well."""
    views: tuple[View, ...]
    """What training draws from: views of the person's images, then those of the prior."""
    prior: int
    """How many of the views are the prior's."""
    held_out: tuple[View, ...]
    """What the held-out loss is measured on."""
    truly_held_out: bool
    """False when the held-out views are a fixed subset of the training images."""
    objective: Objective
    units: tuple[Unit, ...]
    trained: dict[str, int]
    """Model -> its first trained layer."""
    cut: Split
    encode_tiled: bool = False
    """The plan's: images larger than a tile are encoded in tiles. Addresses keep them apart."""
    encode_streamed: bool = False
    """The plan's: encoders that fill the cache come to the device layer by layer."""
    encode_mapped: bool = False
    """The plan's: such encoders lie in files meanwhile."""

    def planned(self, plan: Plan) -> "Setting":
        """The same, with the cache filled as a plan says."""
        return replace(
            self,
            encode_tiled=plan.encode_tiled,
            encode_streamed=plan.encode_streamed,
            encode_mapped=plan.encode_mapped,
        )

    @property
    def full(self) -> bool:
        """Whether every weight of the denoiser is trained, and no LoRA."""
        return self.recipe.train.method == "full"

    @property
    def remarks(self) -> list[str]:
        """What a person should know of the data before anything is computed, a line each."""
        found = [f"Left out: {self.folder.named(each.path)}: {each.reason}" for each in self.rejected]
        found += [self.folder.advice] if self.folder.advice else []
        mute = sum(each.captions == ("",) for each in self.folder.examples)
        if mute:
            found.append(
                f"{mute} of {len(self.folder.examples)} images have no caption, and there is no trigger: "
                "they teach what the empty prompt paints. Write captions, or set data.trigger."
            )
        if self.recipe.data.crop == "auto" and not follows("auto"):
            sizes = {view.example: view.size for view in (*self.own, *self.held_out)}
            if cut := sum(slack(example, size) >= SLACK for example, size in sizes.items()):
                found.append(
                    f"{cut} of {len(sizes)} images are longer than their bucket and keep their middle; crops "
                    f"that follow the subject need the extra. {REMEDY}"
                )
        return found

    @property
    def own(self) -> tuple[View, ...]:
        """Views of the person's images."""
        return self.views[: len(self.views) - self.prior]

    @property
    def order(self) -> Order:
        """Which of the own views each step sees."""
        wish = self.recipe
        return Order(
            self.own, batch=wish.train.batch, seed=wish.seed, caption_dropout=wish.data.caption_dropout
        )

    @property
    def prior_order(self) -> Order | None:
        """Which views of the prior each step sees, counted from the first of them."""
        wish = self.recipe
        if not self.prior:
            return None
        return Order(
            self.views[-self.prior :],
            batch=wish.prior.batch,
            seed=seed_of(wish.seed, "prior"),
            caption_dropout=wish.data.caption_dropout,
        )


def source_of(base: str, tell: Callable[[str], None] = lambda line: None, parts: str = "") -> Source:
    """The base that a recipe names.

    Args:
        base: A name, a hub id, a folder, or a file, which becomes a folder the first time.
        tell: Hears of a download before it starts.
        parts: The base that lends a file what it lacks.

    Raises:
        BadBase: It cannot be opened.
        BadRecipe: ``parts`` is given and the base is no file.
    """
    file = Path(base).expanduser()
    if file.is_file():
        return convert.opened(file, parts, folders=bases.folders(), tell=tell)
    if file.suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
        raise BadBase(f"There is no file {base}. Check the path, from the folder of the recipe or from here.")
    if parts:
        raise BadRecipe(
            f"parts is {parts!r}, which is for a base in one file, and base is {base!r}. Remove it."
        )
    return locate(base, folders=bases.folders(), tell=tell)


def device_of(wish: str) -> torch.device:
    """The device that a recipe asks for.

    Raises:
        BadRecipe: It is asked for by name and is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(n for n, ok in there.items() if ok) if wish == "auto" else wish
    if not there[name]:
        raise BadRecipe(
            f'limits.device is "{name}", and torch {torch.__version__} sees none. Set "auto" or "cpu".'
        )
    return torch.device(name)


def precision_of(wish: str, device: torch.device) -> torch.dtype:
    """bf16 where a GPU computes in it, else fp32; or what the recipe says."""
    if wish == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[wish]


def prepare(
    recipe: Recipe, prior: Path | None = None, tell: Callable[[str], None] = lambda line: None
) -> Setting:
    """Read the folder, open the base's configs, and cut the graph. Loads no weights.

    Args:
        recipe: What a person wishes.
        prior: Folder of the pictures that keep the base as it is, if the recipe wants any.
        tell: Hears of a download before it starts.

    Raises:
        LimnerError: The recipe, the base or the folder cannot be used.
    """
    source = source_of(recipe.base, tell, recipe.components_from)
    family = family_of(str(source.index.get("_class_name", "")))
    device = device_of(recipe.limits.device)
    for side, pixels in (("width", recipe.sample.width), ("height", recipe.sample.height)):
        family.check_side(f"sample.{side}", pixels)
    resolution = recipe.data.resolution or int(source.facts.get("resolution", family.resolution))
    folder = _read(recipe, recipe.data.images, resolution)
    others = recipe.data.validation_images and _read(recipe, recipe.data.validation_images, resolution)
    sizes = buckets(resolution, multiple=family.multiple)
    shown, kept, truly = _hold_out(recipe, folder, others)
    cuts = crops({*shown, *kept}, sizes) if follows(recipe.data.crop) else {}
    seen = {"buckets": sizes, "flip": recipe.data.flip, "dropout": recipe.data.caption_dropout > 0}
    usual = views(_usual(recipe, prior), **seen) if prior else ()
    objective = objective_of(recipe)
    units = family.bound(source, objective)
    trained = trained_of(recipe, family, source)
    return Setting(
        recipe=recipe,
        source=source,
        family=family,
        device=device,
        dtype=precision_of(recipe.limits.compute_dtype, device),
        resolution=resolution,
        folder=folder,
        rejected=folder.rejected + (others.rejected if others else ()),
        views=views(shown, crops=cuts, **seen) + usual,
        prior=len(usual),
        held_out=_plain(views(kept, buckets=sizes, flip=False, dropout=False, crops=cuts)),
        truly_held_out=truly,
        objective=objective,
        units=units,
        trained=trained,
        cut=split(units, trained),
    )


def _read(recipe: Recipe, images: Path, resolution: int) -> Folder:
    wish = recipe.data
    smallest = resolution // 2 if wish.min_side is None else wish.min_side
    if not images.exists():
        key = "images" if images == wish.images else "validation_images"
        raise BadData(
            f"data.{key} is {images}, and there is no such folder. Where is it now? --set data.{key}=FOLDER"
        )
    return read_folder(images, trigger=wish.trigger, default_caption=wish.default_caption, min_side=smallest)


def _usual(recipe: Recipe, place: Path) -> list[Example]:
    """The prior's examples.

    Raises:
        BadData: A caption has the trigger in it, which would teach the trigger to mean nothing.
    """
    trigger = recipe.data.trigger
    examples = list(read_folder(place, min_side=recipe.data.min_side or 0).examples)
    for each in examples:
        if trigger and any(trigger in caption for caption in each.captions):
            raise BadData(
                f"{each.path}: its caption has the trigger {trigger!r}, and it is a picture of the prior. "
                "Name there what the base knows, without the trigger."
            )
    return examples


def _hold_out(
    recipe: Recipe, folder: Folder, others: Folder | None
) -> tuple[list[Example], list[Example], bool]:
    """Examples to train on, examples to measure on, and whether the two are disjoint."""
    wish, examples = recipe.data, list(folder.examples)
    contents = sorted({each.sha256 for each in examples})  # a choice that renaming files does not change
    if others is not None:
        if both := [each.path.name for each in others.examples if each.sha256 in contents]:
            raise BadData(
                f"{len(both)} of the {len(others.examples)} images in data.validation_images are trained "
                f"on as "
                f"well: {both[0]} .. Remove them from one of the two folders."
            )
        return examples, list(others.examples), True
    count = held_out(len(contents), wish.validation_count)
    if count >= len(contents):
        raise BadData(
            f"data.validation_count is {count} and the folder has {len(contents)} different usable "
            f"images: none is "
            f"left to train on. Set it to at most {max(0, len(contents) - 1)}."
        )
    if count == 0:
        return examples, examples[:SUBSET], False
    kept = set(contents[:count])
    return (
        [each for each in examples if each.sha256 not in kept],
        [each for each in examples if each.sha256 in kept],
        True,
    )


def _plain(every: tuple[View, ...]) -> tuple[View, ...]:
    """The first view of each example."""
    first: dict[str, View] = {}
    for view in every:
        first.setdefault(view.example.sha256, view)
    return tuple(first.values())


def objective_of(recipe: Recipe) -> Objective:
    """The wishes of a recipe that change what is learned."""
    wish = recipe.train
    words: dict[str | float, float | None] = {"auto": None, "none": 1.0}
    return Objective(
        time_density=None if wish.time_density == "auto" else wish.time_density,
        time_shift=words.get(wish.time_shift, wish.time_shift),  # pyright: ignore[reportArgumentType]
        guidance=wish.guidance,
        prediction=None if wish.prediction == "auto" else wish.prediction,
        min_snr=wish.min_snr,
        noise_offset=wish.noise_offset,
        zero_terminal_snr=wish.zero_terminal_snr,
    )


def trained_of(recipe: Recipe, family: Family, source: Source) -> dict[str, int]:
    trained = {family.denoiser: 0}
    for name in recipe.lora.text_encoders:
        family.endings(name, "auto")
        layers = family.depth(source, name)
        last = recipe.lora.text_encoder_layers
        if last is not None and last > layers:
            raise BadRecipe(
                f"lora.text_encoder_layers is {last}; {name} has {layers} layers. Set it to at most {layers}."
            )
        trained[name] = 0 if last is None else layers - last
    return trained
