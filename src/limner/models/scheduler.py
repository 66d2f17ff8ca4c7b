"""The sampler of a base, told what its own config does not say of what a LoRA was trained for."""

import inspect
from collections.abc import Mapping
from typing import Any

from limner.errors import BadBase, BadRecipe, first_line
from limner.imports import swiftly
from limner.models.family import Family, Objective
from limner.models.loading import LOAD_ERRORS
from limner.models.lora_keys import SOFTWARE
from limner.models.source import Source
from limner.nn import ddpm

WORDS = {"epsilon": ddpm.EPSILON, "v": ddpm.VELOCITY}
"""ModelSpec's and the recipe's words -> diffusers'."""


def overrides_of(objective: Objective) -> dict[str, Any]:
    """Settings of the sampler that paints what is trained, where a recipe contradicts the base's own."""
    overrides: dict[str, Any] = {}
    if objective.prediction is not None:
        overrides["prediction_type"] = WORDS[objective.prediction]
    if objective.zero_terminal_snr is not None:
        overrides["rescale_betas_zero_snr"] = objective.zero_terminal_snr
    if objective.zero_terminal_snr:  # Lin et al. 2023, arXiv:2305.08891, section 3.3: begin at the last step
        overrides["timestep_spacing"] = "trailing"
    return overrides


def prediction_metadata(family: Family, source: Source, objective: Objective) -> tuple[str, bool]:
    """What the metadata says: "epsilon" or "v", and whether the last step is pure noise; "" of a flow."""
    if "prediction" not in family.supported_options:
        return "", False
    config = {"prediction_type": ddpm.EPSILON, **source.config("scheduler"), **overrides_of(objective)}
    words = {diffusers_word: word for word, diffusers_word in WORDS.items()}
    return words[config["prediction_type"]], bool(config.get("rescale_betas_zero_snr"))


def overrides_from_metadata(family: Family, source: Source, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The same settings, of a LoRA that Limner wrote, as far as the base's own config differs from them."""
    prediction = metadata.get("modelspec.prediction_type", "")
    is_ours = metadata.get("software", "").startswith(SOFTWARE)
    if not is_ours or prediction not in WORDS or "prediction" not in family.supported_options:
        return {}
    zero_terminal_snr = metadata.get("ss_zero_terminal_snr") == "True"
    base_metadata = prediction_metadata(family, source, Objective())
    return overrides_of(
        Objective(
            prediction=None if prediction == base_metadata[0] else prediction,
            zero_terminal_snr=None if zero_terminal_snr == base_metadata[1] else zero_terminal_snr,
        )
    )


def sampler(source: Source, overrides: Mapping[str, Any]) -> Any:
    """The base's own sampler, with ``overrides`` over its config.

    Raises:
        BadBase: Its config means nothing.
        BadRecipe: That sampler knows no such setting, and would paint as if it had not been told.
    """
    name = source.index["scheduler"][1]
    with swiftly():  # in a training, diffusers is imported here first
        import diffusers

        kind = getattr(diffusers, name)
    parameters = inspect.signature(kind).parameters
    if unknown := [f"{key} = {value}" for key, value in overrides.items() if value and key not in parameters]:
        raise BadRecipe(
            f"{source.name} paints by {name}, which knows no {unknown[0]}: it could not show what is "
            "trained. Remove train.zero_terminal_snr, or name a sampler that knows it in the base's "
            "model_index.json and scheduler/scheduler_config.json, such as DDIMScheduler."
        )
    try:
        return kind.from_config({**source.config("scheduler"), **overrides})
    except LOAD_ERRORS as error:
        raise BadBase(
            f"{source.name}: scheduler/scheduler_config.json means nothing to {name}: {first_line(error)}. "
            f"{source.again}"
        ) from error
