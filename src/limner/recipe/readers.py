"""How values are read that other trainers write in other words or another form: a table of small readers."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

from limner.errors import BadRecipe
from limner.recipe.optimizers import OPTIMIZERS


def _lower(words: Mapping[str, str]) -> Callable[[Any], Any]:
    """A reader that turns words of theirs into ours, whatever their case, and leaves all else as it is."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return words.get(value.strip().lower().replace("-", "_"), value)

    return read


def _listed(value: Any) -> Any:
    """One string where ours is a list."""
    return [value] if isinstance(value, str) else value


def _targets(value: Any) -> Any:
    """Split "attn.to_k,attn.to_q" into a list of endings."""
    if isinstance(value, str) and "," in value:
        return [ending.strip() for ending in value.split(",") if ending.strip()]
    return value


def _trackers(value: Any) -> Any:
    if isinstance(value, str):
        return [] if value.lower() == "none" else [value.lower()]
    return value


def _adam8bit(value: Any) -> Any:
    """``use_8bit_adam``."""
    return {True: "adamw8bit", False: "adamw"}.get(value, value) if isinstance(value, bool) else value


def _velocity(value: Any) -> Any:
    """``v_parameterization``."""
    return {True: "v", False: "epsilon"}[value] if isinstance(value, bool) else value


def _distribution(value: Any) -> Any:
    """``timestep_distribution``: what OneTrainer calls SIGMOID is no normal through a sigmoid."""
    if isinstance(value, str) and value.lower() == "sigmoid":
        raise BadRecipe(
            'timestep_distribution is "SIGMOID", a distribution that Limner has not. Set train.time_density '
            'to "logit-normal" or "uniform".'
        )
    return value


def _density(value: Any) -> Any:
    """What kohya calls "shift" is two settings of ours."""
    if isinstance(value, str) and value.endswith("shift"):
        raise BadRecipe(
            f'timestep_sampling is "{value}", which is two keys here. Set train.time_density = "sigmoid" and '
            'train.time_shift = 3.0, or "auto" to shift by resolution.'
        )
    words = {name: name for name in ("sigmoid", "uniform", "content", "style")} | {"balanced": "auto"}
    return _lower(words | {"logit_normal": "logit-normal", "linear": "uniform", "none": "uniform"})(value)


def _warmup(value: Any) -> Any:
    """Below 1, kohya takes it as a share of the steps."""
    if isinstance(value, float) and 0 < value < 1:
        raise BadRecipe(
            f"lr_warmup_steps is {value:g}, a share. Count steps: train.warmup = {value:g} x train.steps."
        )
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _decomposed(value: Any) -> Any:
    """``use_dora``."""
    return {True: "dora", False: "lora"}[value] if isinstance(value, bool) else value


def _arguments(value: Any) -> Any:
    """Kohya's list of "name=value"."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(entry, str) and "=" in entry for entry in value
    ):
        return value
    pairs = (entry.split("=", 1) for entry in value)
    return {name.strip(): _literal(text.strip()) for name, text in pairs}


def _literal(text: str) -> Any:
    """A number, true or false as Python writes them, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _taught(kind: str) -> Callable[[Any], Any]:
    """A reader of ai-toolkit's switches, of which each is a kind of prior."""
    return lambda value: {True: kind, False: "images"}[value] if isinstance(value, bool) else value


def _sharded(value: Any) -> Any:
    """FSDP as others switch it on: true, or a strategy of transformers ("full_shard auto_wrap")."""
    return {"True": "on", "False": "off"}.get(str(value), "on" if "_shard" in str(value) else value)


def _masks(source: str) -> Callable[[Any], Any]:
    """A reader of switches that say where masks are."""
    return lambda value: {True: source, False: None}[value] if isinstance(value, bool) else value


READERS: Mapping[str, Callable[[Any], Any]] = {
    "diff_output_preservation": _taught("teacher"),
    "blank_prompt_preservation": _taught("blank"),
    "alpha_mask": _masks("alpha"),
    "masked_training": _masks("sidecar"),
    **dict.fromkeys(("fsdp", "use_fsdp", "fsdp_enable", "enable_fsdp"), _sharded),
    "use_8bit_adam": _adam8bit,
    "use_dora": _decomposed,
    "lora_decompose": _decomposed,
    "v_parameterization": _velocity,
    "class_prompt": _listed,
    "validation_prompt": _listed,
    "target_modules": _targets,
    "lora_layers": _targets,
    "timestep_distribution": _distribution,
    "lr_warmup_steps": _warmup,
    "report_to": _trackers,
    "log_with": _trackers,
}
"""A spelling -> how its value is read, where it has another form than ours."""

WORDS: Mapping[str, Callable[[Any], Any]] = {
    "train.optimizer": _lower(
        {
            **{name: name for name in OPTIMIZERS},
            "adamw_torch": "adamw",
            "adamw_8bit": "adamw8bit",
            "paged_adamw_8bit": "pagedadamw8bit",
            "adamwschedulefree": "schedulefree",
            "adamw_schedule_free": "schedulefree",
            "schedule_free_adamw": "schedulefree",
        }
    ),
    "train.optimizer_args": _arguments,
    "train.schedule": _lower(
        {name: name for name in ("constant", "cosine", "linear", "cosine_with_restarts", "polynomial")}
        | {"constant_with_warmup": "constant"}
        | dict.fromkeys(("warmup_stable_decay", "wsd"), "warmup_stable_decay")
    ),
    "train.time_density": _density,
    "lora.kind": _lower({"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr", "dora": "dora"}),
    "train.loss": _lower({"l2": "mse", "mse": "mse", "l1": "l1", "mae": "l1", "huber": "huber"}),
    "train.method": _lower(
        {"lora": "lora", "full": "full", "fine_tune": "full", "instant": "instant"}
        | dict.fromkeys(("inversion", "textual_inversion", "embedding"), "inversion")
    ),
    "train.prediction": _lower({"epsilon": "epsilon", "v_prediction": "v", "v": "v"}),
    "data.crop": _lower({"center": "centre"}),
    "slider.neutral": _listed,
}
"""Our key -> how words for its values are read, in whatever spelling the key stands."""


def read(path: str, key: str, value: Any) -> Any:
    """A value in our units and words.

    Args:
        path: The key as somebody wrote it.
        key: Ours.
        value: In any trainer's words; one that is none of them stays as it is.

    Raises:
        BadRecipe: It has no counterpart.
    """
    leaf = path.rpartition(".")[2]
    if path != key and leaf in READERS:
        value = READERS[leaf](value)
    return WORDS[key](value) if key in WORDS else value
