"""Which LoRAs the positive and the negative branch of guidance have."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from limner.errors import BadLora, BadRecipe
from limner.generation.pipeline import set_strengths
from limner.generation.settings import Settings
from limner.lora import diffusers_loader, file
from limner.lora.metadata import SamplingHints, sampling_hints
from limner.models.family import Family
from limner.models.sampling import Branch, by_branch
from limner.models.source import Source
from limner.reporter import Reporter

NEGATIVE_LORA = "negative-lora"
"""What the adapter of ``Settings.negative_lora`` is called."""


def as_asked(settings: Settings, path: Path, metadata: Mapping[str, str], reporter: Reporter) -> Settings:
    """The settings with what a LoRA asks for in its metadata, which is told in a line.

    Raises:
        BadLora: It asks for something that means nothing.
    """
    try:
        hints = sampling_hints(metadata)
    except BadLora as error:
        raise BadLora(f"{path}: {error}") from error
    new = settings.following(hints, path.parent)
    if new != settings and hints != SamplingHints():
        branches = "the positive branch only" if new.splits_branches else "both branches"
        guidance = "the base's own guidance" if new.guidance is None else f"guidance {new.guidance:g}"
        negative = f", {new.negative_lora.name} on the negative one" if new.negative_lora else ""
        reporter.line(f"As {path.name} asks for: the LoRA on {branches}{negative}, {guidance}.")
    return new


def require_branches(family: Family, source: Source, settings: Settings) -> None:
    """Tell what is wrong with the branches before the base is loaded.

    Raises:
        BadRecipe: A branch is asked for that is not there, or that no LoRA can be on.
        BadLora: The LoRA for the negative branch cannot be read.
    """
    if settings.negative_lora is not None:
        file.read(settings.negative_lora)
        if family.guidance.model:
            raise BadRecipe(
                f"--negative-lora is {settings.negative_lora}, and the negative pass of {family.name} is "
                "another model's, for which there are no LoRAs. Remove it."
            )
    if settings.splits_branches:
        option = "--negative-lora" if settings.negative_lora else "--lora-on positive"
        family.require_negative_pass(source, settings.guidance, option)


def negative_scales(settings: Settings, scales: Mapping[str, float], strength: float) -> dict[str, float]:
    """The adapters that the negative branch has, and their strengths.

    Args:
        settings: See :class:`Settings`.
        scales: Those that are on the positive branch: name -> strength.
        strength: Of the LoRA that the image is made for.
    """
    if not settings.splits_branches:
        return dict(scales)
    return {} if settings.negative_lora is None else {NEGATIVE_LORA: strength}


@contextmanager
def with_adapters(
    pipe: Any, family: Family, positive: Mapping[str, float], negative: Mapping[str, float]
) -> Iterator[None]:
    """While entered, one call of the pipeline has these adapters on its branches, at these strengths.

    Args:
        pipe: The stock pipeline with its adapters.
        family: Its family.
        positive: Name of an adapter -> strength.
        negative: The same of the negative branch.
    """
    denoiser = getattr(pipe, family.denoiser)
    set_strengths(pipe, positive)
    if positive == negative:
        yield
        return

    def select(model: nn.Module, branch: Branch) -> None:
        diffusers_loader.activate(model, positive if branch == "positive" else negative)

    models = [model for model in pipe.components.values() if diffusers_loader.has_adapters(model)]
    text_encoders = [model for model in models if model is not denoiser]
    with by_branch(family.guidance, denoiser, text_encoders, select):
        yield
