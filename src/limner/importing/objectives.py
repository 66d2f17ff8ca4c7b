"""Settings that say what is learned and how: sliders, priors, precision, timesteps, control images."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limner.importing.book import Book, number

SLIDER = {
    "target_class": "neutral",
    "target": "neutral",
    "positive_prompt": "positive",
    "positive": "positive",
    "negative_prompt": "negative",
    "unconditional": "negative",
    "guidance_strength": "guidance",
    "guidance_scale": "guidance",
}
"""Keys in a table ``slider`` of ai-toolkit, and in LECO's words -> ours."""
ENDS = ("positive_prompt", "positive")
TOOLKIT_GUIDANCE = 3.0
"""``guidance_strength`` of ai-toolkit where its file sets none; LECO's default is ours."""
IMAGES = ("trigger_word", "caption_dropout_rate", "folder_path")
"""What is said of images, of which a slider learns none."""
TABLE = re.compile(r"(?:^|\.)slider\.(?:targets\.\d+\.)?\w+$")
CONTROL = re.compile(r"\s*--ctrl_img(?:_\d)?\s+(\S+)")
"""A control image in a prompt of ai-toolkit."""


def slider(book: Book) -> None:
    """A slider of prompts; of several, the first."""
    options = [option for option in book.options if TABLE.search(option.key)]
    book.options = [option for option in book.options if option not in options]
    is_slider = any(option.leaf in ENDS and str(option.value).strip() for option in options)
    for option in options:
        key, value = SLIDER.get(option.leaf), option.value
        path = f"slider.{key}"
        if not is_slider or value in (None, ""):
            book.row(option, "off")
        elif key is None:
            book.row(option, "cannot be had", "No such setting of a slider here.")
        elif path in book.changes:
            book.row(option, "cannot be had", "One slider is trained: the first.")
        elif key == "guidance" and number(value) is None:
            book.row(option, "cannot be had", "It is no number.")
        else:
            values = {"neutral": (str(value),), "guidance": number(value)}
            assignments: dict[str, Any] = {path: values.get(key, str(value))}
            book.set(option, assignments, outcome="kept" if key != "neutral" else "translated")
    if is_slider:
        book.changes["train.objective"] = "slider"
        if any(option.leaf == "positive_prompt" for option in options):
            book.changes.setdefault("slider.guidance", TOOLKIT_GUIDANCE)
        for option in book.take(*IMAGES):
            book.row(
                option, "cannot be had", "A slider is made of its prompts: the base generates its images."
            )


def distillation(book: Book) -> None:
    """DiffSynth's task: ordinary training, or direct distillation from a teacher's pictures."""
    for option in book.each("task"):
        word = str(option.value).partition(":")[0].lower()
        if word == "direct_distill":
            note = "Each picture wants the seed of its start noise: a column seed in the metadata."
            book.set(option, {"train.objective": "distill"}, note)
        elif word == "sft":
            book.row(option, "always so", "Frozen values are cached before the first step.")
        else:
            book.row(option, "cannot be had", "Tasks are sft and direct_distill.")


def precision(book: Book) -> None:
    """The precision of the arithmetic: the plan's choice, unless it is the widest."""
    for option in book.each("mixed_precision", "train_dtype", "dtype"):
        word = str(option.value).lower()
        if word in ("no", "fp32", "float32", "float"):
            book.set(option, {"limits.compute_dtype": "fp32"})
        elif word in ("fp16", "float16", "float_16"):
            note = "fp16 with a scaled loss on cards without bf16, bf16 on others: limits.compute_dtype."
            book.row(option, "the plan decides", note)
        else:
            book.row(option, "the plan decides")


def controlled_prompts(book: Book) -> None:
    """Prompts with control images in them, each with as many."""
    for option in book.options:
        texts = option.value if isinstance(option.value, list) else [option.value]
        if option.leaf != "prompts" or not any(CONTROL.search(str(text)) for text in texts):
            continue
        images = [CONTROL.findall(str(text)) for text in texts]
        book.options.remove(option)
        assignments: dict[str, Any] = {
            "sample.prompts": tuple(CONTROL.sub("", str(text)).strip() for text in texts)
        }
        if len({len(paths) for paths in images}) == 1:
            assignments["sample.control"] = tuple(Path(path) for paths in images for path in paths)
            book.set(option, assignments, "Control images of the prompts, in their order.")
        else:
            book.set(option, assignments, "Each prompt wants as many control images: set sample.control.")
        return


PRIORS = {"diff_output_preservation": "teacher", "blank_prompt_preservation": "blank"}
"""ai-toolkit's switches -> kinds of prior. Of each there is a multiplier, which counts where it is on."""


def prior(book: Book) -> None:
    """The bare base as the teacher: the first switch that is on; words and weights of others are off."""
    kind = next((kind for name, kind in PRIORS.items() if book.peek(name) is True), "")
    for name, other in PRIORS.items():
        for option in book.each(name):
            if other == kind:
                book.set(option, {"prior.kind": kind})
            else:
                book.row(option, "cannot be had", "There is one kind of prior.")
        for option, value in book.numbers(f"{name}_multiplier"):
            if other == kind and value > 0:
                book.set(option, {"prior.weight": value}, outcome="kept")
            else:
                book.row(option, "off")
    for option in book.each("diff_output_preservation_class"):
        if kind == "teacher":
            book.set(option, {"prior.class_word": str(option.value)}, outcome="kept")
        else:
            book.row(option, "off")


def new_word(book: Book) -> None:
    """OneTrainer's table of a new word, which every file of it has: off, unless token vectors are trained.

    They learn at the rate of everything, where they have none of their own.
    """
    methods = ("embedding", "textual_inversion")
    is_trained = str(book.peek("training_method") or "").lower() in methods
    for option in [option for option in book.options if not is_trained and _of_a_word(option.key)]:
        book.options.remove(option)
        book.row(option, "off")
    if is_trained and book.peek("embedding_learning_rate") is None:
        for option, value in book.numbers("learning_rate"):
            book.set(option, {"inversion.rate": value})


def _of_a_word(key: str) -> bool:
    return key.startswith(("embedding.", "additional_embeddings.")) or key == "embedding_learning_rate"


PARTS = ("transformer", "unet", "prior", "decoder", "unconditional_transformer")


def of_parts(book: Book) -> None:
    """OneTrainer's tables of other optimizers, which are kept for its window, and of parts of the model."""
    for option in [option for option in book.options if option.key.startswith("optimizer_defaults")]:
        book.options.remove(option)
        book.row(option, "off", "Of another optimizer.")
    for option in list(book.options):
        part, _, leaf = option.key.partition(".")
        if leaf not in ("train", "model_name") or (leaf == "train" and part not in PARTS):
            continue
        book.options.remove(option)
        is_denoiser = part in PARTS[:2]
        if leaf == "train" and is_denoiser:
            outcome = "always so" if option.value is not False else "cannot be had"
            book.row(option, outcome, "The denoiser is trained.")
        elif option.value in (None, "", False) or not is_denoiser:
            book.row(option, "off")
        else:
            book.row(option, "cannot be had", "A denoiser in a file of its own: name it as base.")


RULES: tuple[Callable[[Book], None], ...] = (
    *(of_parts, slider, distillation, precision, controlled_prompts, prior),
    new_word,
)


DENSITIES = {
    "shift": "sigmoid",
    "flux-shift": "logit-normal",
    "qwen-shift": "logit-normal",
    "flux2-shift": "logit-normal",
    "krea2-shift": "logit-normal",
    "ideogram4-shift": "auto",
    "sigmoid": "sigmoid",
    "uniform": "uniform",
    "linear": "uniform",
    "none": "uniform",
    "sigma": "uniform",
    "logit-normal": "logit-normal",
}
"""A word for the density of timesteps -> ours. "shift" is a sigmoid that ``discrete_flow_shift`` moves; those
that end so are moved by resolution. What OneTrainer calls SIGMOID is no normal through a sigmoid."""
SHIFTS = {"sd-scripts": 3.0, "kohya_ss": 3.0}
"""``discrete_flow_shift`` where a file has none; 1 elsewhere."""
TOOLKIT_SHIFTS = ("shift", "flux-shift", "lumina2-shift")
"""Words of ai-toolkit for uniform times that the base's own shift moves."""
PLAIN_DENSITIES = ("uniform", "linear", "sigmoid")
"""Words of sd-scripts, musubi and ai-toolkit for times that nothing moves, not even a shift that is set."""


def timesteps(book: Book) -> None:
    """How timesteps are sampled: kohya's words are a density and a shift."""
    shifts = list(
        book.numbers("discrete_flow_shift", "timestep_shift", "flow_schedule_shift", "flux_schedule_shift")
    )
    silent = SHIFTS.get(str(book.facts.get("trainer")), 1.0)
    shift: Any = shifts[0][1] if shifts else silent
    of_resolution = [*book.each("dynamic_timestep_shifting")]
    for option in of_resolution:
        book.row(option, "translated", "See the sampling of timesteps.")
    shift = _of_simple_tuner(book) or shift
    _biased(book)
    _of_toolkit(book)
    names = ("timestep_sampling", "timestep_type", "timestep_distribution", "weighting_scheme")
    for option in book.take(*names):
        word = str(option.value).lower().replace("_", "-")
        if option.value in (None, ""):
            book.row(option, "off")
        elif word not in DENSITIES or (option.leaf, word) == ("timestep_distribution", "sigmoid"):
            note = "Not among auto, logit-normal, uniform and sigmoid; auto is the base's own."
            book.row(option, "cannot be had", note)
        else:
            assignments: dict[str, Any] = {"train.time_density": DENSITIES[word]}
            if word.endswith("shift"):
                assignments["train.time_shift"] = shift if word == "shift" else "auto"
            elif option.leaf == "timestep_distribution":
                assignments["train.time_shift"] = "auto" if of_resolution else shift
            elif option.leaf != "weighting_scheme" and word in PLAIN_DENSITIES:
                assignments["train.time_shift"] = 1.0
            book.set(option, assignments, outcome="kept" if word in assignments.values() else "translated")
    for option, value in shifts:
        if "train.time_shift" in book.changes:
            book.row(option, "translated", "See the sampling of timesteps.")
        else:
            book.set(option, {"train.time_shift": value}, outcome="kept")


def _of_simple_tuner(book: Book) -> str:
    """SimpleTuner's shift by resolution; "" where it is off."""
    for option in book.each("flow_schedule_auto_shift"):
        book.set(option, {"train.time_shift": "auto"}, "As the base's sampler moves them.")
        return "auto"
    return ""


def _biased(book: Book) -> None:
    """ai-toolkit's bias of timesteps, which stands above their sampling."""
    for option in book.take("content_or_style"):
        word = str(option.value).lower()
        if word not in ("content", "style"):
            book.row(option, "off")
            continue
        book.set(option, {"train.time_density": word}, outcome="kept")
        for other in book.take("timestep_type"):
            book.row(other, "off")


def _of_toolkit(book: Book) -> None:
    """ai-toolkit's words for uniform times: some are moved as in sampling, one counts by the timestep."""
    for option in [option for option in book.options if option.leaf == "timestep_type"]:
        word = str(option.value).lower().replace("_", "-")
        if word not in (*TOOLKIT_SHIFTS, "weighted"):
            continue
        book.options.remove(option)
        if word == "weighted":
            note = "Drawn alike; its weights of the loss by the timestep cannot be had."
            uniform = {"train.time_density": "uniform", "train.time_shift": 1.0}
            book.set(option, uniform, note, outcome="cannot be had")
        else:
            book.set(option, {"train.time_density": "uniform", "train.time_shift": "auto"})
