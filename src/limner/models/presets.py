"""Where a recipe starts: values by goal, family and number of images, each with the page that it is from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from limner.errors import BadRecipe
from limner.recipe.schema import Goal, Recipe
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

FLUX_STEPS = {
    "subject": (1000, 1500, 2500, 4000),
    "face": (1000, 1750, 2700, 4000),
    "object": (1000, 1500, 2500, 4000),
    "style": (1000, 2000, 3000, 4000),
}
"""Optimizer steps on FLUX.1 by goal and size of the folder. The columns are ``SIZES`` and what is larger."""

_GROWING = "replicate's default (1000) at ten images; ai-toolkit's upper end (4000) beyond 100; interpolated"
FLUX_STEPS_FROM = {
    "subject": _GROWING,
    "face": "astria: 100 steps per image at 10 images, 70 at 25, 27 at 100; then ai-toolkit",
    "object": _GROWING,
    "style": f"{_GROWING} around ai-toolkit's default (2000)",
}

FLUX_PROMPTS = {
    "subject": ("[trigger] on a beach", "[trigger] in the snow", "a watercolour painting of [trigger]"),
    "face": ("a portrait photo of [trigger]", "[trigger] laughing in a cafe", "an oil painting of [trigger]"),
    "object": (
        "[trigger] on a wooden table",
        "[trigger] on a rock by the sea",
        "a pencil drawing of [trigger]",
    ),
    "style": ("a lighthouse, [trigger]", "a fox in a forest, [trigger]", "a street market, [trigger]"),
}

GLYPH_PROMPTS = {
    "subject": ("[trigger]", "[trigger] on a dark background", "a cat"),
    "face": ("[trigger]", "[trigger] on a dark background", "a cat"),
    "object": ("[trigger]", "[trigger] on a dark background", "a cat"),
    "style": ("[trigger] style cat", "[trigger] style rocket", "[trigger] style apple", "cat"),
}


GLYPH_TARGETS = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")
"""Every modulation of the FLUX.1 architecture."""


@dataclass(frozen=True)
class Choice:
    """One value of a preset.

    Attributes:
        value: What the key is set to.
        source: A name in ``SOURCES``, or a sentence that names some of them.
    """

    value: Any
    source: str


OTHERS: dict[str, dict[str, Choice]] = {
    "flux2": {
        "train.learning_rate": Choice(1e-4, "diffusers, README_flux2.md; musubi, docs/flux_2.md"),
        "lora.rank": Choice(32, "musubi, docs/flux_2.md"),
    },
    "qwen-image": {
        "train.learning_rate": Choice(5e-5, "musubi, docs/qwen_image.md"),
        "lora.rank": Choice(16, "musubi, docs/qwen_image.md"),
    },
    "z-image": {
        "train.learning_rate": Choice(1e-4, "musubi, docs/zimage.md"),
        "lora.rank": Choice(32, "musubi, docs/zimage.md"),
    },
    "sd3": {
        "train.learning_rate": Choice(1e-4, "simpletuner, quickstart/SD3.md: stable values for 3.5"),
        "train.clip": Choice(0.1, "simpletuner, quickstart/SD3.md: large leaps ruin 3.5"),
        "lora.rank": Choice(32, "diffusers, README_sd3.md"),
    },
    "sdxl": {
        "train.learning_rate": Choice(1e-4, "diffusers, README_sdxl.md"),
        "lora.rank": Choice(16, "kohya's and diffusers' examples, 4 to 32"),
        "train.min_snr": Choice(5.0, "diffusers, examples/text_to_image/README.md; Hang et al. 2023"),
        "train.noise_offset": Choice(0.0, "diffusers: off unless very dark or bright pictures are wanted"),
    },
    "sd15": {
        "data.resolution": Choice(512, "diffusers: Stable Diffusion 1.5 is a 512-pixel model"),
        "train.learning_rate": Choice(1e-4, "diffusers, examples/text_to_image/README.md (LoRA)"),
        "lora.rank": Choice(16, "kohya's and diffusers' examples, 4 to 32"),
        "train.min_snr": Choice(5.0, "diffusers, examples/text_to_image/README.md; Hang et al. 2023"),
    },
}
"""What other families change of the preset of FLUX.1: the steps by goal and folder are those of FLUX.1."""


def preset(goal: str, family: str, images: int, method: str = "lora") -> Recipe:
    """A recipe to start from.

    Args:
        goal: "subject", "face", "object" or "style".
        family: "flux", "flux2", "qwen-image", "sd15", "sd3", "sdxl", "z-image", or "glyph" (embedded).
        images: How many images there are, at least 1. Folders of up to 10, 25, 100 and more images differ.
        method: "lora", or "full" for all weights of the denoiser.

    Raises:
        BadRecipe: An unknown goal or family, or no image.
    """
    base = {"flux": "flux-dev", "flux2": "flux2-klein-4b", "sd3": "sd35-medium"}.get(family, family)
    values = {path: choice.value for path, choice in choices(goal, family, images, method).items()}
    values["train.method"] = method
    return change(Recipe(), {"base": base, "goal": goal, **values})


def choices(goal: str, family: str, images: int, method: str = "lora") -> dict[str, Choice]:
    """The values of ``preset`` by dotted path, each with its source. Same arguments, same errors."""
    families: dict[str, Callable[[str, int], dict[str, Choice]]] = {"flux": _flux, "glyph": _glyph}
    families |= {name: partial(_like_flux, name) for name in OTHERS}
    if goal not in get_args(Goal):
        raise BadRecipe(f'goal is "{goal}"; it must be one of {", ".join(get_args(Goal))}. Try "subject".')
    if family not in families:
        raise BadRecipe(f'There is no preset for the family "{family}". Known: {", ".join(families)}.')
    if images < 1:
        raise BadRecipe(f"A preset for {images} images means nothing. Give a folder with at least 1 image.")
    found = families[family](goal, sum(images > size for size in SIZES))
    return _full(found) if method == "full" else found


def _full(found: dict[str, Choice]) -> dict[str, Choice]:
    """What is left of a LoRA's preset when every weight is trained."""
    rate = found["train.learning_rate"].value / 10
    source = "a tenth of the LoRA's, as in diffusers, examples/text_to_image/README.md: 1e-5 beside 1e-4"
    return {path: one for path, one in found.items() if not path.startswith("lora.")} | {
        "train.learning_rate": Choice(rate, source)
    }


def _flux(goal: str, size: int) -> dict[str, Choice]:
    """FLUX.1 by goal and index into ``SIZES``."""
    large = size == len(SIZES)
    wide = goal == "style" and size >= 2
    batch_source = "diffusers (4 accumulated)" if large else "simpletuner and ai-toolkit, for small sets"
    return {
        "data.resolution": Choice(1024, "astria: FLUX.1 is a 1024-pixel model; ai-toolkit goes up to it"),
        "data.caption_dropout": Choice(0.05, "ai-toolkit"),
        "lora.rank": Choice(32 if wide else 16, "boreal" if wide else "ai-toolkit, kohya and replicate"),
        "train.steps": Choice(FLUX_STEPS[goal][size], FLUX_STEPS_FROM[goal]),
        "train.batch": Choice(4 if large else 1, batch_source),
        "train.learning_rate": Choice(
            1e-4, "ai-toolkit and kohya; simpletuner: 1e-3 ruins, 1e-5 does nothing"
        ),
        "train.schedule": Choice("constant", "diffusers and kohya"),
        "train.guidance": Choice(1.0, "diffusers, kohya and simpletuner"),
        "train.save_every": Choice(250, "ai-toolkit"),
        "sample.every": Choice(250, "ai-toolkit"),
        "sample.steps": Choice(20, "ai-toolkit and simpletuner"),
        "sample.prompts": Choice(FLUX_PROMPTS[goal], "written"),
    }


def _like_flux(family: str, goal: str, size: int) -> dict[str, Choice]:
    """Another family: what is known of FLUX.1 by goal and size of the folder, changed where pages differ."""
    chosen = _flux(goal, size) | OTHERS[family]
    if family in ("sd15", "sd3", "sdxl"):  # no guidance is embedded in them
        del chosen["train.guidance"]
    return chosen


def _glyph(goal: str, size: int) -> dict[str, Choice]:
    """The embedded base by goal and index into ``SIZES``. Tuned for minutes on two CPU cores."""
    style = goal == "style"
    own = {
        "lora.targets": Choice(GLYPH_TARGETS, "limner: modulations know the prompt's gist and no shape"),
        "train.ema": Choice(0.98, "limner"),
    }
    return {
        "data.resolution": Choice(64, "limner"),
        "data.caption_dropout": Choice(0.05, "ai-toolkit"),
        "lora.rank": Choice(16, "limner"),
        "lora.text_encoders": Choice(("text_encoder",), "limner"),
        "train.steps": Choice((300 if style else 280, 380, 600, 900)[size], "limner"),
        "train.batch": Choice(4, "limner"),
        "train.learning_rate": Choice(2.4e-3 if style else 2e-3, "limner"),
        "train.time_shift": Choice(
            4.0 if style else 5.0, "limner: what is seen first of a small picture is settled in its noise"
        ),
        "train.save_every": Choice(250, "limner"),
        "sample.every": Choice(0, "limner"),
        "sample.prompts": Choice(GLYPH_PROMPTS[goal], "written"),
        **(own if style else {}),
    }
