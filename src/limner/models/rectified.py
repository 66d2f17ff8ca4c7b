"""Units and constants of the families that are rectified flows: how times are drawn, what is asked for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from limner.errors import BadRecipe
from limner.graph.unit import unit
from limner.models.family import Objective
from limner.models.source import Source
from limner.nn import flow
from limner.nn.rng import Draw

SHIFT_RANGE = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
SUPPORTED_OPTIONS = frozenset({"time_density", "time_shift"})
"""Wishes of a recipe that a rectified flow can grant."""


@unit("time")
def draw_time(
    latent: Tensor,
    draw: Draw,
    *,
    time_density: str,
    time_shift: float | Callable[[int], float],
    patch: int,
) -> Tensor:
    """(B,) in (0, 1), 1 = noise. ``time_shift`` may depend on the number of tokens, as samplers have it."""
    tokens = latent[0, 0].numel() // patch**2
    shift = time_shift(tokens) if callable(time_shift) else time_shift
    return flow.shifted(flow.density(time_density, draw.uniform("time", latent)), shift)


@unit("loss")
def measure(pred: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each sample's velocity, (B,), in fp32."""
    velocity = flow.velocity(latent, noise)
    return (pred.float() - velocity.float()).square().flatten(1).mean(1)


def times(
    source: Source, objective: Objective, *, patch: int = 2, shift_rule: Callable[[int], float] | None = None
) -> Mapping[str, Any]:
    """Constants of :func:`draw_time`: as the base's sampler shifts, unless the recipe says otherwise.

    Args:
        source: The base, whose scheduler/ says how it samples.
        objective: The recipe's wishes.
        patch: Side in latent pixels of the patch that is one token.
        shift_rule: Number of tokens -> shift, for a base whose pipeline has a rule of its own.
    """
    sampler = source.config("scheduler")
    low, high, min_tokens, max_tokens = (float(sampler.get(key, value)) for key, value in SHIFT_RANGE.items())
    shift_rule = shift_rule or partial(
        flow.resolution_shift, low=low, high=high, few=min_tokens, many=max_tokens
    )
    base_shift = shift_rule if sampler.get("use_dynamic_shifting") else float(sampler.get("shift", 1.0))
    density = objective.time_density or "logit-normal"
    if density == "sigmoid":  # the kohya tools' name for logit-normal without a shift
        density, base_shift = "logit-normal", 1.0
    return {
        "time_density": density,
        "time_shift": base_shift if objective.time_shift is None else objective.time_shift,
        "patch": patch,
    }


def text_length(source: Source, default: int = 512) -> int:
    """Tokens of a caption that are read: what the base says, or what is ``default`` for its family."""
    return source.facts.get("text_length", default)


def constants(
    source: Source,
    objective: Objective,
    *,
    tokens: int = 512,
    patch: int = 2,
    shift_rule: Callable[[int], float] | None = None,
) -> Mapping[str, Any]:
    """What every rectified flow reads of its base's configs: :func:`text_length` and :func:`times`."""
    return {
        "text_length": text_length(source, tokens),
        **times(source, objective, patch=patch, shift_rule=shift_rule),
    }


def guidance(source: Source, objective: Objective, denoiser: str = "transformer") -> float | None:
    """The guidance that the denoiser is told of while it trains; None when it has no such input.

    Raises:
        BadRecipe: It has none, and the recipe names one.
    """
    if source.config(denoiser).get("guidance_embeds"):
        return objective.guidance
    if objective.guidance != Objective.guidance:
        raise BadRecipe(
            f"train.guidance is {objective.guidance:g}, and {source.name} has no input for guidance "
            f"({denoiser}/config.json: guidance_embeds). Remove it; sample.guidance is for pictures."
        )
    return None
