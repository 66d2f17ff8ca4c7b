"""Where a recipe starts: values by concept, family and number of images, each with its source."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from limner.errors import BadBase, BadRecipe
from limner.files import user_path
from limner.models.facts import PresetValue
from limner.models.registry import (
    facts_of,
    families,
    family_of_base,
    index_path,
    recognised,
    registered_bases,
)
from limner.models.single_file import look
from limner.recipe.objectives import DISTILL_HAS_NO, UNFIT_PAIRS
from limner.recipe.schema import ConceptType, Recipe
from limner.recipe.toml import change

SOURCES = {
    "ai-toolkit": "ostris/ai-toolkit, config/examples/train_lora_flux_24gb.yaml",
    "astria": "Astria, Flux training, two versions (docs.astria.ai/docs/use-cases/flux-finetuning)",
    "diffusers": "huggingface/diffusers, examples/dreambooth/README_flux.md",
    "boreal": "kudzueye/Boreal on the Hugging Face hub, discussion 4, style training settings",
    "kohya": "kohya-ss/sd-scripts, docs/flux_train_network.md, sections 4 and 6.2",
    "musubi": "kohya-ss/musubi-tuner, docs/, one page per model",
    "replicate": "the configuration in LoRAs made by Replicate's FLUX.1 trainer (flux_train_replicate)",
    "simpletuner": "bghira/SimpleTuner, documentation/quickstart/FLUX.md",
    "limner": "our own choice for the embedded base, to be tuned on it",
    "written": "prompts written for Limner",
}
"""The pages behind the numbers. Nothing here was measured by us on a full-size model."""

SIZES = (10, 25, 100)
"""Folders of up to so many images share a preset; there is one more for larger folders."""

STEPS = {
    "subject": (1000, 1500, 2500, 4000),
    "face": (1000, 1750, 2700, 4000),
    "object": (1000, 1500, 2500, 4000),
    "style": (1000, 2000, 3000, 4000),
    "concept": (1000, 1500, 2500, 4000),
}
"""Optimizer steps on FLUX.1 by concept and size of the folder. The columns are ``SIZES``, then larger."""

_GROWING = "replicate's default (1000) at ten images; ai-toolkit's upper end (4000) beyond 100; interpolated"
STEPS_FROM = {
    "subject": _GROWING,
    "face": "astria: 100 steps per image at 10 images, 70 at 25, 27 at 100; then ai-toolkit",
    "object": _GROWING,
    "style": f"{_GROWING} around ai-toolkit's default (2000)",
    "concept": _GROWING,
}

PROMPTS = {
    "subject": ("[trigger] on a beach", "[trigger] in the snow", "a watercolour painting of [trigger]"),
    "face": ("a portrait photo of [trigger]", "[trigger] laughing in a cafe", "an oil painting of [trigger]"),
    "object": (
        "[trigger] on a wooden table",
        "[trigger] on a rock by the sea",
        "a pencil drawing of [trigger]",
    ),
    "style": ("a lighthouse, [trigger]", "a fox in a forest, [trigger]", "a street market, [trigger]"),
    "concept": (
        "a woman in a park, [trigger]",
        "an old man at home, [trigger]",
        "a drawing of a girl, [trigger]",
    ),
}


def preset(
    concept: str, family: str, images: int, method: str = "lora", objective: str = "denoise"
) -> Recipe:
    """A recipe to start from.

    Args:
        concept: "subject", "face", "object", "style" or "concept", such as a pose or a garment.
        family: Of a base, as :func:`preset_name` tells it; "" for values that no family has changed.
        images: How many images there are, at least 1. Folders of up to 10, 25, 100 and more images differ.
        method: "lora", "full" for all weights of the denoiser, "inversion" for token vectors, or "pivotal"
            for both them and a LoRA.
        objective: "denoise"; "distill", which draws no noise and drops no caption; "slider": drops none, and
            is set together with its prompts.

    Raises:
        BadRecipe: An unknown concept or family, or no image.
    """
    bases = families()[family].bases if family in families() else ()
    base = bases[0].name if bases else family if family not in families() and family else Recipe().base
    values = {
        path: choice.value for path, choice in choices(concept, family, images, method, objective).items()
    }
    pivotal = {"inversion.with_lora": True} if method == "pivotal" else {}
    values |= {"train.method": "inversion" if pivotal else method, **pivotal}
    if objective != "slider":  # without the prompts of a person it is none
        values |= {"train.objective": objective}
    return change(Recipe(), {"base": base, "concept_type": concept, **values})


def choices(
    concept: str, family: str, images: int, method: str = "lora", objective: str = "denoise"
) -> dict[str, PresetValue]:
    """The values of ``preset`` by dotted path, each with its source. Same arguments, same errors."""
    base = registered_bases().get(family)
    if concept not in get_args(ConceptType):
        raise BadRecipe(
            f'concept_type is "{concept}"; it must be one of {", ".join(get_args(ConceptType))}. Try '
            f'"subject".'
        )
    base_preset = base.preset if base else None
    if family and family not in families() and base_preset is None:
        names = ", ".join([*families(), *(name for name, base in registered_bases().items() if base.preset)])
        raise BadRecipe(f'There is no preset for the family "{family}". Known: {names}.')
    if images < 1:
        raise BadRecipe(f"A preset for {images} images means nothing. Give a folder with at least 1 image.")
    size = sum(images > limit for limit in SIZES)
    if base_preset:
        values = base_preset(concept, size)
    else:
        overrides = families()[family].preset if family else {}
        values = {
            path: choice
            for path, choice in {**common(concept, size), **overrides}.items()
            if choice is not None
        }
    if objective == "distill":
        unfit = {*UNFIT_PAIRS, *(f"train.{key}" for key in DISTILL_HAS_NO)}
        values = {path: choice for path, choice in values.items() if path not in unfit}
    if objective == "slider":
        values.pop("data.caption_dropout", None)
    if method == "instant":
        return _predictor(values)
    if method == "inversion":
        values = {path: choice for path, choice in values.items() if not _of_a_lora(path)}
    return _full(values) if method == "full" else values


def ways(overrides: Mapping[str, Any]) -> tuple[str, str]:
    """The method and the objective of a preset, by values of a recipe that a person has set."""
    train = Recipe().train
    method, objective = (
        overrides.get(f"train.{key}", getattr(train, key)) for key in ("method", "objective")
    )
    if method == "inversion" and overrides.get("inversion.with_lora"):
        method = "pivotal"
    return method, objective


def concessions(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What of a preset gives way to values of a recipe that a person has set, by dotted path."""
    return {"data.caption_dropout": 0.0} if overrides.get("prior.kind") == "blank" else {}


def _of_a_lora(path: str) -> bool:
    """Whether a key means nothing to token vectors: an empty caption teaches them nothing."""
    return path.startswith("lora.") or path == "data.caption_dropout"


def preset_name(base: str) -> str:
    """Which preset suits a base, as far as its name or folder tells without fetching; "" where neither does.

    Args:
        base: As the recipe says it.

    Returns:
        A family, or a registered base that has a preset of its own.
    """
    if base in registered_bases():
        return _preset_of(base)
    index = index_path(user_path(base))
    try:
        if index.parent.is_file():
            pipeline = look(index.parent).pipeline
        else:
            note = index.with_name("limner.json")
            origin = str(json.loads(note.read_text(encoding="utf-8")).get("name")) if note.is_file() else ""
            if origin in registered_bases():  # a full fine-tune of it
                return _preset_of(origin)
            pipeline = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError, BadBase):  # no folder, or one that is told when it is opened
        match = recognised(Path(base).name)
        return match[0].name if match else ""
    facts = facts_of(pipeline)
    return facts.name if facts else ""


def _preset_of(base: str) -> str:
    family = family_of_base(base)
    return base if family is None or registered_bases()[base].preset else family.name


def _full(values: dict[str, PresetValue]) -> dict[str, PresetValue]:
    """What is left of a LoRA's preset when every weight is trained."""
    rate = values["train.learning_rate"].value / 10
    source = "a tenth of the LoRA's, as in diffusers, examples/text_to_image/README.md: 1e-5 for 1e-4"
    return {path: choice for path, choice in values.items() if not path.startswith("lora.")} | {
        "train.learning_rate": PresetValue(rate, source)
    }


def _predictor(values: dict[str, PresetValue]) -> dict[str, PresetValue]:
    """What is left of a LoRA's preset when a predictor of LoRAs is trained."""
    left_out = ("lora.", "sample.prompts", "train.min_snr")
    source = "the training of glyph-instant, which comes with the embedded base"
    rest = {path: choice for path, choice in values.items() if not path.startswith(left_out)}
    return rest | {
        path: PresetValue(value, source)
        for path, value in {
            "lora.rank": 4,
            "train.batch": 16,
            "train.steps": 2500,
            "train.learning_rate": 1e-3,
            "train.betas": (0.9, 0.99),
            "train.ema": 0.998,
        }.items()
    }


def common(concept: str, size: int) -> dict[str, PresetValue]:
    """What every family starts from, by concept and index into ``SIZES``: the steps are those of FLUX.1."""
    large = size == len(SIZES)
    wide = concept == "style" and size >= 2
    batch_source = "diffusers (4 accumulated)" if large else "simpletuner and ai-toolkit, for small sets"
    return {
        "data.resolution": PresetValue(
            1024, "astria: FLUX.1 is a 1024-pixel model; ai-toolkit goes up to it"
        ),
        "data.caption_dropout": PresetValue(0.05, "ai-toolkit"),
        "lora.rank": PresetValue(32 if wide else 16, "boreal" if wide else "ai-toolkit, kohya and replicate"),
        "train.steps": PresetValue(STEPS[concept][size], STEPS_FROM[concept]),
        "train.batch": PresetValue(4 if large else 1, batch_source),
        "train.learning_rate": PresetValue(
            1e-4, "ai-toolkit and kohya; simpletuner: 1e-3 ruins, 1e-5 does nothing"
        ),
        "train.schedule": PresetValue("constant", "diffusers and kohya"),
        "train.guidance": PresetValue(1.0, "diffusers, kohya and simpletuner"),
        "train.save_every": PresetValue(250, "ai-toolkit"),
        "sample.every": PresetValue(250, "ai-toolkit"),
        "sample.steps": PresetValue(20, "ai-toolkit and simpletuner"),
        "sample.prompts": PresetValue(PROMPTS[concept], "written"),
    }
