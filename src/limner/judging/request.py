"""What is judged: steps, strengths, prompts with the trigger and without it, seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limner.arguments import JudgeKeys
from limner.bases.demo_sets import TEST_NOUNS
from limner.data.captions import has_word, replaced, word_spans
from limner.errors import BadUsage
from limner.generation.settings import Settings
from limner.judging.encoders import is_embedded
from limner.recipe import toml
from limner.recipe.prompt_file import PromptLine
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir
from limner.target import request_for, subject_of
from limner.training.export import output_of

STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.2)
SEEDS = 4
EMBEDDED_PROMPTS = 6
"""Nouns of the embedded base that a style is judged by; the preset's prompts name none that it knows."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What a person asks for."""

    steps: tuple[int | str, ...] = ()
    """Training steps, "best" or "last"; none: all that kept a LoRA."""
    strengths: tuple[float, ...] = STRENGTHS
    prompts: tuple[str, ...] = ()
    """With "[trigger]" or the trigger itself; none: those of the recipe."""
    prompt_file: Path | None = None
    leak_prompts: tuple[str, ...] = ()
    """Without the trigger; none: the others with the trigger taken out."""
    seeds: tuple[int, ...] = tuple(range(SEEDS))
    size: tuple[int, int] | None = None
    """Width and height in pixels; None: as samples have it."""
    encoders: tuple[str, ...] = ()
    """Folders or hub ids; none: the embedded base's judge, or SigLIP 2."""

    def __post_init__(self) -> None:
        if not self.strengths or 0.0 in self.strengths:
            raise BadUsage("--strengths holds 0, which is the base; it is always there. Name those above 0.")
        if not self.seeds:
            raise BadUsage("--seeds is 0; it must be at least 1. Below 2 there is no variety to measure.")


def options_of(keys: JudgeKeys) -> JudgeOptions:
    """The options that a call from Python gives.

    Raises:
        BadUsage: A key is unknown, or a value means nothing.
    """
    values: dict[str, Any] = dict(keys)
    if unknown := [name for name in values if name not in JudgeKeys.__annotations__]:
        raise BadUsage(f"judge takes no {unknown[0]}. It takes {', '.join(JudgeKeys.__annotations__)}.")
    for name in ("steps", "strengths", "prompts", "leak_prompts", "encoders"):
        if name in values:
            value = values[name]
            values[name] = (value,) if isinstance(value, str | int | float) else tuple(value)
    if (seeds := values.get("seeds")) is not None:
        values["seeds"] = tuple(range(seeds) if isinstance(seeds, int) else seeds)
    if isinstance(size := values.get("size"), int):
        values["size"] = (size, size)
    if file := values.get("prompt_file"):
        values["prompt_file"] = Path(file)
    return JudgeOptions(**values)


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """The same, made concrete on a run."""

    run: RunDir
    recipe: Recipe
    loras: dict[int, Path]
    """Step -> LoRA, ascending."""
    lines: tuple[PromptLine, ...]
    """Prompts with the trigger."""
    texts: tuple[str, ...]
    """What each of them says beside the trigger."""
    plain: tuple[PromptLine, ...]
    """Prompts without it."""
    settings: Settings
    """Of all images; strength 0 first."""
    encoders: tuple[str, ...]

    @property
    def grid(self) -> list[tuple[int, float]]:
        """(step, strength) of every cell, the base first as (0, 0)."""
        strengths = [strength for strength in self.settings.strengths if strength]
        return [(0, 0.0), *((step, strength) for step in self.loras for strength in strengths)]

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.grid) * len(self.settings.seeds) * (len(self.lines) + len(self.plain))


def request_of(target: Path, options: JudgeOptions) -> JudgeRequest:
    """What is judged of a run.

    Args:
        target: A run folder, or what a run was made from.
        options: See :class:`JudgeOptions`.

    Raises:
        BadUsage: There is no run, no LoRA of a step, or no prompt.
    """
    run, recipe = lora_run(target)
    triggers, trigger = triggers_of(recipe), recipe.data.trigger
    texts = list(options.prompts)
    by_noun = is_embedded(recipe.base, options.encoders) and recipe.concept_type == "style" and trigger
    if by_noun and not texts and options.prompt_file is None:
        texts = [f"[trigger] style {noun}" for noun in TEST_NOUNS[:EMBEDDED_PROMPTS]]
    subject = subject_of(run.path, texts, options.prompt_file)
    lines = [replace(line, seed=None) for line in subject.prompts]  # all prompts share the seeds
    with_trigger = tuple(line for line in lines if has_trigger(line.prompt, *triggers)) or tuple(lines)
    rest = [line for line in lines if line not in with_trigger]
    plain = [PromptLine(text) for text in options.leak_prompts]
    if triggers and not plain:
        shorter = [replace(line, prompt=without_trigger(line.prompt, *triggers)) for line in with_trigger]
        plain = list(dict.fromkeys([*rest, *(line for line in shorter if line.prompt)]))
    numbers = [number for number, _ in run.step_loras()]
    if options.steps:
        paths = {run.step_lora(step) for step in options.steps}
        numbers = [number for number, path in run.step_loras() if path in paths]
    run.step_lora("last")  # says what to do where there is none
    width, height = options.size or (recipe.sample.width, recipe.sample.height)
    return JudgeRequest(
        run=run,
        recipe=recipe,
        loras={number: run.step_lora_path(number) for number in sorted(numbers)},
        lines=with_trigger,
        texts=tuple(without_trigger(line.prompt, *triggers) for line in with_trigger),
        plain=tuple(plain),
        settings=Settings(
            steps=recipe.sample_steps,
            guidance=recipe.sample_guidance,
            seed=options.seeds,
            width=width,
            height=height,
            lora_scale=(0.0, *options.strengths),
        ),
        encoders=options.encoders,
    )


def lora_run(target: Path) -> tuple[RunDir, Recipe]:
    """The run that a target stands for, and its recipe.

    Raises:
        BadUsage: There is none, or it keeps no LoRAs.
    """
    run = RunDir(request_for(target, {}, None).out)
    if not run.recipe_path.is_file():
        raise BadUsage(f"{run.path} holds no run. Train it first: limner train {target}")
    recipe = toml.load(run.recipe_path)
    if recipe.trains_words and not recipe.inversion.with_lora:
        raise BadUsage(
            f"{run.path} trained token vectors, which have no strength to judge. Compare the steps by "
            f"eye: limner generate {run.path} --step STEPS; their files are in {run.embeddings_path}."
        )
    output = output_of(recipe.train.method, with_lora=recipe.inversion.with_lora)
    if output.paths(run)["lora"] is None:
        raise BadUsage(
            f"{run.path} trained a whole base and keeps no LoRA of its steps. Judge the run of a LoRA; its "
            f"images come from: limner generate {run.path}"
        )
    return run, recipe


def triggers_of(recipe: Recipe) -> tuple[str, ...]:
    """The triggers of a run, that of each of its data.sets; the longest first."""
    triggers = dict.fromkeys(entry.trigger for entry in recipe.data.folders if entry.trigger)
    return tuple(sorted(triggers, key=len, reverse=True))


def has_trigger(prompt: str, *triggers: str) -> bool:
    """Whether a prompt has a trigger in it, as whole words, in any case."""
    return any(has_word(trigger, prompt) for trigger in triggers)


def without_trigger(prompt: str, *triggers: str) -> str:
    """A prompt with the triggers taken out, and "style" and "in" with them: "zorbix style cat" -> "cat"."""
    if not any(triggers):
        return prompt
    text = prompt
    for trigger in filter(None, triggers):
        spans = word_spans(trigger, text)
        for number, (start, end) in enumerate(spans):
            before = re.search(r"\bin\s+(?:the\s+)?$", text[:start], re.IGNORECASE)
            after = re.match(r"\s+style\b", text[end:], re.IGNORECASE)
            spans[number] = (before.start() if before else start, end + (after.end() if after else 0))
        text = replaced(text, spans, " ")
    parts = [" ".join(part.split()) for part in text.split(",")]
    return ", ".join(part for part in parts if part)


def listed(steps: Sequence[int]) -> str:
    """Steps for people: "20, 40 and 60"."""
    names = [str(step) for step in steps]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
