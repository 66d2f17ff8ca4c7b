"""A bias: one LoRA for all pictures that leads a predictor's sum back to what the base itself generates.

The base generates pictures from prompts; a LoRA is trained on them while the predictor's LoRAs of such
pictures are in the frozen base (the Bias expert of DiffSynth-Studio's Qwen-Image-i2L). It learns what is
common to the errors of all of them, which takes few pictures. Images that are to be kept are shown beside
them: of their LoRAs it learns to change nothing, so that it does not take the style back with the rest.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.data.folder import read_folder
from limner.data.styles import styles_of
from limner.errors import BadUsage
from limner.files import atomic_write
from limner.hyper.predictor import FILE, Predictor
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.run_folder import RunDir

BATCH = 8
"""Images of a step that the base generated, and as many that are kept; each has references of its own."""
KEEP_WEIGHT = 0.2
"""Of the loss of what is kept, beside that of the base's images."""


@dataclass(frozen=True, kw_only=True)
class BiasOptions:
    """What a bias is trained on."""

    base: str
    prompts: tuple[str, ...]
    """At least one."""
    images: int = 100
    """That the base generates, in all."""
    keep: Path | None = None
    """Folder with a folder for each style, of whose images the LoRAs keep their effect."""
    keep_weight: float | None = None
    """Of their loss, beside that of the base's images; None: ``KEEP_WEIGHT``."""
    rank: int = 16
    steps: int = 300
    learning_rate: float = 2e-3
    seed: int = 0
    encoders: Path | None = None
    """Folder of frozen encoders."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise BadUsage(f"--images is {self.images}; it must be at least 2: each is seen beside others.")
        if self.keep_weight is not None and self.keep is None:
            raise BadUsage(
                f"--keep-weight is {self.keep_weight}, and no images are to be kept. Name their folder with "
                "--keep, or leave it out."
            )


def expert_names(paths: Sequence[Path]) -> list[str]:
    """What predictors are called in a common folder: their files' stems, or the folders that they lie in.

    Raises:
        BadUsage: Two have one name, or one is called as the bias is.
    """
    names = []
    for path in paths:
        folder = path if path.is_dir() else path.parent
        title = folder.absolute().parent.name if folder.name == "predictor" else folder.absolute().name
        names.append(title if path.is_dir() or path.name == FILE else path.stem)
    if twice := [name for name in names if names.count(name) > 1 or name == "bias"]:
        raise BadUsage(f"Two experts would be called {twice[0]}. Rename the file or the folder of one.")
    return names


def bias_recipe(experts: Sequence[Path], run: Path, options: BiasOptions) -> Recipe:
    """The recipe of a bias beside predictors.

    Raises:
        BadBase: A predictor cannot be read.
        BadRecipe: A value means nothing.
        BadData: Of what is to be kept there is nothing, or a style has one image.
    """
    configs = [Predictor.load(path).config for path in experts]
    targets = dict.fromkeys(target.name for config in configs for target in config.targets)
    further: dict[str, Any] = {}
    if options.encoders:
        further["instant.encoder_folder"] = str(options.encoders)
    if options.keep:
        styles_of(read_folder(options.keep).examples)  # hours before it is read again, what is wrong with it
        further |= {
            "prior.kind": "experts",
            "prior.images": str(options.keep),
            "prior.batch": BATCH,
            "prior.weight": KEEP_WEIGHT if options.keep_weight is None else options.keep_weight,
        }
    return change(
        Recipe(),
        {
            "base": options.base,
            "name": "bias",
            "seed": options.seed,
            "data.images": str(RunDir(run).prior_path),
            "data.validation_count": 0,
            "lora.rank": options.rank,
            "lora.targets": list(targets),
            "train.method": "instant",
            "train.steps": options.steps,
            "train.batch": BATCH,
            "train.learning_rate": options.learning_rate,
            "train.schedule": "cosine",
            "train.warmup": min(10, options.steps // 10),
            "train.ema": 0.98,
            "instant.group": 1,
            "instant.target": "base",
            "instant.encoders": [],
            "instant.experts": [str(path) for path in experts],
            "prior.prompts": list(options.prompts),
            "prior.count": options.images,
            "sample.every": -1,
            **further,
        },
    )


def train_bias(
    experts: Sequence[Path], out: Path, options: BiasOptions, train: Callable[[Recipe, Path], Path | None]
) -> Path:
    """Train a bias, and put it beside its predictors: a folder that ``--experts`` takes.

    Args:
        experts: Predictors whose LoRAs are added up, each a file or a folder.
        out: The folder; the training's run is in ``run``.
        options: See :class:`BiasOptions`.
        train: Trains as a recipe says, in a run folder; gives the LoRA.

    Raises:
        LimnerError: A predictor, the base or a value cannot be used.
    """
    names, run = expert_names(experts), out / "run"
    lora = train(bias_recipe(experts, run, options), run)
    assert lora is not None
    for name, path in zip([*names, "bias"], [*experts, lora], strict=True):
        source = path / FILE if path.is_dir() else path
        atomic_write(out / f"{name}.safetensors", lambda draft, source=source: shutil.copyfile(source, draft))
    return out / "bias.safetensors"
