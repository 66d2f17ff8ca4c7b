"""The verb ``demo``: LoRAs on the embedded base from ten bundled pictures each, and what changed.

Two are trained; a third is made of the first one's pictures in one pass of the base's predictor.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from limner.assembly.base import ResolvedBase, few_steps
from limner.assembly.resolve import resolve_base
from limner.bases.art import TRAINED_STYLES
from limner.bases.demo_sets import NOUNS, TEST_NOUNS, folder
from limner.bases.judge import Judge, stack, style_scores, subject_score
from limner.files import atomic_write
from limner.generation.branches import negative_scales, with_adapters
from limner.generation.pipeline import pipeline
from limner.generation.settings import Settings
from limner.lora import file
from limner.lora.metadata import sampling_hints
from limner.models.family import SamplingParams
from limner.models.presets import preset
from limner.prediction import InstantOptions, instant
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.report.demo_page import LessonPage, write_demo_page
from limner.report.sheet import write_sheet
from limner.reporter import Reporter, duration
from limner.run_folder import RunDir
from limner.runs import train

BASE = "glyph"
TRIGGER = "zorbix"
STYLE = "blueprint"
"""The held-out style of the demo; the package holds sets of three."""
STEPS = 16
BATCH_SIZE = 20
SHEET_IMAGES = 5
"""Pictures of each lesson on the contact sheet."""

Scores = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class DemoRun:
    """One LoRA of the demo: from which pictures, asked in which words, judged how."""

    name: str
    concept_type: str
    images: str
    prompt_of: Callable[[str], str]
    """A noun -> the prompt with the trigger."""
    score: Callable[[Judge, np.ndarray, Sequence[str]], Scores]
    """Of pictures that were asked for with the trigger."""
    leak: Callable[[Judge, np.ndarray, Sequence[str]], Scores]
    """Of pictures that were asked for by the bare noun."""
    figure: str
    """The score that stands for the lesson."""
    title: str
    text: str
    """What was learned, in a sentence."""
    learned: str
    """What the score counts: "images in the style"."""


def style_lesson(style: str = STYLE) -> DemoRun:
    """A style that the base has never seen."""
    return DemoRun(
        name=f"{style}-style",
        concept_type="style",
        images=style,
        prompt_of=lambda noun: f"{TRIGGER} style {noun}",
        score=lambda judge, images, nouns: style_scores(judge, images, nouns, style),
        leak=lambda judge, images, nouns: style_scores(judge, images, nouns, style),
        figure="style",
        title=f"A style: {style}",
        text=(
            f"Ten images taught the base a style that it had never seen. Its trigger word is “{TRIGGER}”: "
            "a prompt with it is drawn in that style, and prompts without it stay as they were."
        ),
        learned="images in the style",
    )


def subject_lesson() -> DemoRun:
    """The project's own mascot."""

    def recognised(judge: Judge, images: np.ndarray, nouns: Sequence[str]) -> Scores:
        del nouns
        return {"subject": subject_score(judge, images)}

    return DemoRun(
        name="mascot",
        concept_type="subject",
        images="mascot",
        prompt_of=lambda ground: f"{TRIGGER}, on a {ground} background",
        score=recognised,
        leak=recognised,
        figure="subject",
        title="A subject: the mascot",
        text=(
            f"Ten images taught the base a character that it had never seen. “{TRIGGER}” in a prompt brings "
            "it, on whatever background the prompt asks for."
        ),
        learned="images that show the subject",
    )


GROUNDS = ("white", "yellow", "pink", "sky blue", "green", "purple", "black", "cream", "grey", "orange")


def demo(out: Path, reporter: Reporter) -> dict[str, Any]:
    """Train a style and a subject on the embedded base, make a LoRA in one pass, and measure what changed.

    Everything goes to ``out``: a run folder for each LoRA, and a sheet and a report over both.

    Returns:
        ``{"loras": [{"path", "seconds", "before", "after", ..}], "sheet", "report"}``; before and after are
        the share of pictures in the style, or with the subject, when the trigger asks for it.
    """
    judge, board = Judge.load(), RunDir(out)
    base_sampler = PromptSampler(embedded_base())
    lessons = (style_lesson(), subject_lesson())
    prompts = [
        lesson.prompt_of(word) for lesson in lessons for word in words_of(lesson, judge)[:SHEET_IMAGES]
    ]
    board.write_prompts(prompts)
    results = []
    for index, lesson in enumerate(lessons):
        reporter.line(f"{lesson.name}: ten pictures, {TRIGGER!r} is their word.")
        figures, images_by_step = teach(
            lesson, recipe_for(lesson), out / lesson.name, judge, reporter, base_sampler
        )
        results.append(figures)
        for step, images in images_by_step.items():
            for number, image in enumerate(images[:SHEET_IMAGES], start=index * SHEET_IMAGES):
                atomic_write(board.sample_path(step, number), partial(image.save, format="PNG"))
        reporter.line(
            f"{lesson.name}: {lesson.figure} {figures['before']:.0%} before, {figures['after']:.0%} after."
        )
    write_sheet(board, prompts)
    pages = [
        _page_lesson(board, lesson, result, prompts, index * SHEET_IMAGES)
        for index, (lesson, result) in enumerate(zip(lessons, results, strict=True))
    ]
    seconds = sum(result["seconds"] for result in results)
    figures, page = predicted_lesson(out / "one-pass", judge, reporter, base_sampler)
    reporter.line(
        f"one-pass: style {figures['before']:.0%} before, {figures['after']:.0%} after, without training."
    )
    results.append(figures)
    pages.append(page)
    lead = (
        f"Two LoRAs, each from ten images, trained in {duration(seconds)} on the small base model that "
        "Limner comes with, and a third made in one pass: 64 pixels, no GPU, no download. The same commands "
        "train larger bases on photos."
    )
    report = write_demo_page(board.report_path, pages, lead=lead, next_steps=_next_steps(out, lessons[0]))
    loras = [result | {"path": str(result["path"])} for result in results]
    return {"loras": loras, "sheet": str(board.sheet_path), "report": str(report)}


def embedded_base(name: str = BASE) -> ResolvedBase:
    """The base that the demo is of, or its twin."""
    return resolve_base(Recipe(base=name))


def predicted_lesson(
    out: Path, judge: Judge, reporter: Reporter, base_sampler: "PromptSampler"
) -> tuple[dict[str, Any], LessonPage]:
    """Make a LoRA of the style's pictures in one pass: (figures, what the page shows of it).

    Its prompts are bare nouns, since it has no trigger word; the LoRA is on the branch of guidance, and the
    guidance is the one, that its file asks for.
    """
    board, nouns = RunDir(out), test_nouns(judge)
    board.path.mkdir(parents=True, exist_ok=True)
    report = instant([folder(STYLE)], BASE, board.lora_path, InstantOptions(), reporter)
    lora_sampler = PromptSampler(embedded_base(), report.lora)
    before, after = (sampler.sample(nouns, reporter, seed=0) for sampler in (base_sampler, lora_sampler))
    paths = [board.sample_path(step, number) for step in (0, 1) for number in range(SHEET_IMAGES)]
    for path, image in zip(paths, [*before[:SHEET_IMAGES], *after[:SHEET_IMAGES]], strict=True):
        atomic_write(path, partial(image.save, format="PNG"))
    scores = [style_scores(judge, stack(images, judge.side), nouns, STYLE) for images in (before, after)]
    figures = {
        "path": report.lora,
        "seconds": round(report.seconds, 1),
        "before": scores[0]["style"],
        "after": scores[1]["style"],
        "concept_before": scores[0]["concept"],
        "concept_after": scores[1]["concept"],
    }
    page = LessonPage(
        run=board,
        photos=sorted(folder(STYLE).glob("*.png")),
        title=f"The same style in one pass: {STYLE}",
        text=(
            "A predictor read the ten images and wrote a LoRA, without training. It has no trigger word: "
            "every prompt is drawn in the style. It is weaker than a trained one: palette and ground come "
            "first, lines last. “limner train --set train.init=instant” goes on from it."
        ),
        prompts=nouns[:SHEET_IMAGES],
        before=paths[:SHEET_IMAGES],
        after=paths[SHEET_IMAGES:],
        figures={
            "Images in the style": f"{figures['before']:.0%} before, {figures['after']:.0%} after",
            "Nouns that are recognised": (
                f"{figures['concept_before']:.0%} before, {figures['concept_after']:.0%} after"
            ),
            "Making it": f"{report.layers} layers of rank {report.rank} in {report.seconds:.1f} s",
        },
    )
    return figures, page


def words_of(lesson: DemoRun, judge: Judge) -> list[str]:
    """What a lesson's prompts name: nouns that are not in its pictures, or grounds for its subject."""
    return test_nouns(judge) if lesson.concept_type == "style" else list(GROUNDS)


def test_nouns(judge: Judge) -> list[str]:
    """The nouns that both the base and the judge know and that no demo picture shows."""
    return [noun for noun in TEST_NOUNS if noun in judge.concept_names]


def teach(
    lesson: DemoRun,
    recipe: Recipe,
    out: Path,
    judge: Judge,
    reporter: Reporter,
    base_sampler: "PromptSampler | None" = None,
) -> tuple[dict[str, Any], dict[int, list[Image.Image]]]:
    """Train one LoRA, sample before and after: (figures, {step: pictures asked for with the trigger})."""
    start = time.monotonic()
    words, nouns = words_of(lesson, judge), test_nouns(judge)
    trained = train(recipe, out, reporter)
    prompts = [lesson.prompt_of(word) for word in words]
    scores: dict[str, Scores] = {}
    images_by_step: dict[int, list[Image.Image]] = {}
    base = embedded_base()
    samplers = {"before": base_sampler or PromptSampler(base), "after": PromptSampler(base, trained.lora)}
    for label, sampler in samplers.items():
        images = sampler.sample(prompts, reporter, seed=recipe.seed * 1000)
        plain = sampler.sample(nouns, reporter, seed=recipe.seed * 1000)
        images_by_step[0 if label == "before" else recipe.train.steps] = images
        scores[label] = lesson.score(judge, stack(images, judge.side), words)
        scores[f"plain_{label}"] = lesson.leak(judge, stack(plain, judge.side), nouns)
        scores[f"base_{label}"] = style_scores(judge, stack(plain, judge.side), nouns, STYLE)
    figures = {
        "path": trained.lora,
        "seconds": round(time.monotonic() - start, 1),
        "before": scores["before"][lesson.figure],
        "after": scores["after"][lesson.figure],
        "without_trigger": scores["plain_after"][lesson.figure],
        "concept_of_base": scores["base_before"]["concept"],
        "concept_without_trigger": scores["base_after"]["concept"],
        "training_seconds": round(trained.seconds, 1),
    }
    if "concept" in scores["after"]:
        figures["concept_with_trigger"] = scores["after"]["concept"]
    return figures, images_by_step


def recipe_for(lesson: DemoRun, *, seed: int = 0, images: Path | None = None) -> Recipe:
    """The preset of ten pictures on the embedded base, for a lesson; ``images`` other than its own."""
    defaults = preset(lesson.concept_type, BASE, 10)
    hands = TRAINED_STYLES * len(NOUNS)
    class_prompts = [
        text for noun, hand in zip(NOUNS, hands, strict=False) for text in (f"{hand} style {noun}", noun)
    ]
    values: dict[str, Any] = {
        "name": lesson.name,
        "seed": seed,
        "data.images": images or folder(lesson.images),
        "data.trigger": TRIGGER,
        "sample.every": -1,
        "sample.prompts": (),
        "data.min_side": 16,
        "prior.prompts": class_prompts,
        "prior.batch": 2,
        "prior.weight": 0.4,
    }
    return toml.change(defaults, values)


class PromptSampler:
    """A base's stock pipeline, with or without a LoRA file, generating many prompts at once.

    A LoRA is on the branches of guidance that it asks for. What was generated once is kept.
    """

    def __init__(self, base: ResolvedBase, lora: Path | None = None) -> None:
        """See the class."""
        self.steps = few_steps(base.source.name, STEPS)[0]
        self.source, self.family, self.side = base.source, base.family, base.resolution
        self.pipe = pipeline(self.family, self.source, {"lora": lora} if lora else {})
        self._images: dict[tuple[tuple[str, ...], int], list[Image.Image]] = {}
        self.settings, self.strengths = Settings(), dict[str, float]()
        if lora:
            self.settings = self.settings.following(sampling_hints(file.read(lora).metadata), lora.parent)
            self.strengths = {"lora": 1.0}

    def sample(self, prompts: Sequence[str], reporter: Reporter, *, seed: int = 0) -> list[Image.Image]:
        """One picture for each prompt, each from its own seed, ``seed`` onwards."""
        key = tuple(prompts), seed
        if key not in self._images:
            self._images[key] = self._generated(prompts, reporter, seed)
        return self._images[key]

    def _generated(self, prompts: Sequence[str], reporter: Reporter, seed: int) -> list[Image.Image]:
        guidance = self.settings.guidance
        params = SamplingParams(width=self.side, height=self.side, steps=self.steps, guidance=guidance)
        negative = negative_scales(self.settings, self.strengths, 1.0)
        options = self.family.pipeline_kwargs(self.source, params)
        out: list[Image.Image] = []
        with reporter.progress("Generating", len(prompts)) as bar:
            for start in range(0, len(prompts), BATCH_SIZE):
                batch = list(prompts[start : start + BATCH_SIZE])
                negative_prompts = (
                    None if options["negative_prompt"] is None else [options["negative_prompt"]] * len(batch)
                )
                seeds = [torch.Generator().manual_seed(seed + start + n) for n in range(len(batch))]
                with with_adapters(self.pipe, self.family, self.strengths, negative):
                    out += self.pipe(
                        batch, **options | {"negative_prompt": negative_prompts}, generator=seeds
                    ).images
                bar.advance(len(batch))
        return out


def _page_lesson(
    board: RunDir, lesson: DemoRun, result: Mapping[str, Any], prompts: Sequence[str], first: int
) -> LessonPage:
    """What the page shows of a lesson, whose images on the board begin at ``first``."""
    run, indices = RunDir(board.path / lesson.name), range(first, first + SHEET_IMAGES)
    steps = max(step for step, images in board.samples().items() if first in images)
    figures = {
        f"{lesson.learned.capitalize()}, with the trigger word": (
            f"{result['before']:.0%} before, {result['after']:.0%} after"
        ),
        f"{lesson.learned.capitalize()}, without it": f"{result['without_trigger']:.0%} after",
        "Nouns that are recognised, without the trigger word": (
            f"{result['concept_of_base']:.0%} before, {result['concept_without_trigger']:.0%} after"
        ),
        "Training": f"{steps} steps in {duration(result['training_seconds'])}",
    }
    return LessonPage(
        run=run,
        title=lesson.title,
        text=lesson.text,
        prompts=[prompts[index] for index in indices],
        before=[board.sample_path(0, index) for index in indices],
        after=[board.sample_path(steps, index) for index in indices],
        figures=figures,
    )


def _next_steps(out: Path, lesson: DemoRun) -> list[tuple[str, str]]:
    """What somebody who has seen the demo may want to do."""
    return [
        (
            "Ask this LoRA for something else, at several strengths:",
            f'limner generate {out / lesson.name} --prompt "{lesson.prompt_of("boat")}" '
            "--lora-scale 0,0.5,1 --open",
        ),
        (
            "Train on images of your own. On the small base it takes minutes and shows the way:",
            'limner train photos/ --trigger "sks cat"',
        ),
        (
            "See which base your GPU can train, and in which time, before anything is downloaded:",
            "limner plan photos/",
        ),
        (
            "Then train on that base, and give the LoRA to ComfyUI:",
            'limner train photos/ --base sdxl --trigger "sks cat"\nlimner export runs/photos --to comfyui',
        ),
    ]
