"""The verb ``judge``: images of each kept step at several strengths, measured, and what to take."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limner.data.folder import read_folder
from limner.data.images import read_image
from limner.errors import BadData
from limner.events import plain
from limner.files import atomic_write, write_json
from limner.judging.advice import Recommendation, recommend, table
from limner.judging.encoders import Viewer, viewer_for
from limner.judging.images import ImageTable, opened
from limner.judging.measures import Features, Samples, measured
from limner.judging.request import JudgeOptions, JudgeRequest, listed, request_of
from limner.report.report import write_report
from limner.report.sheet import sheet
from limner.reporter import Reporter, counted, duration
from limner.run_folder import RunDir

MOST_TRAINING_IMAGES = 100
SHEET_PROMPTS = 3
THUMBNAIL = 256


@dataclass(frozen=True, kw_only=True)
class JudgeReport:
    """What was measured of a run."""

    run: Path
    encoder: str
    cells: list[dict[str, Any]]
    """The base first, as step 0 and strength 0: ``step``, ``strength``, and an interval for each measure."""
    ceiling: float
    """Of the training images among themselves."""
    recommendation: Recommendation
    images: int
    new_images: int
    """Those that were not there before."""
    sheet: Path
    file: Path
    seconds: float


def judge(target: Path, options: JudgeOptions, reporter: Reporter) -> JudgeReport:
    """Measure the LoRAs of a run's steps, and write ``judge.json``, a sheet and the report into its folder.

    Images that are there already, by prompt, seed, step, strength and all else that makes them, are not
    generated again.

    Raises:
        BadUsage: There is no run of a LoRA, or nothing to judge.
        BadData: The training images are gone.
        BadBase: The base or an encoder cannot be used.
    """
    start = time.monotonic()
    request = request_of(target, options)
    paths = _training_images(request)
    images = ImageTable(request)
    missing = images.due()
    reporter.line(_first_line(request, len(images.images), len(missing)))
    viewer = viewer_for(request.recipe, request.encoders, reporter.line)
    pace = images.fill(missing, reporter)
    samples = measured(_features(request, images, paths, viewer, reporter), request.recipe.seed)
    for line in _gaps(samples, request):
        reporter.line(line)
    cells = [
        {"step": step, "strength": strength, **figures}
        for (step, strength), figures in zip(request.grid, table(samples), strict=True)
    ]
    report = JudgeReport(
        run=request.run.path,
        encoder=viewer.name,
        cells=cells,
        ceiling=samples.ceiling,
        recommendation=recommend(request.grid, samples),
        images=len(images.images),
        new_images=len(missing),
        sheet=request.run.judge_sheet_path,
        file=request.run.judge_path,
        seconds=time.monotonic() - start,
    )
    _write_sheet(request, images, cells)
    write_json(report.file, _record(report, request, images, pace))
    write_report(request.run)
    return report


def _first_line(request: JudgeRequest, total: int, missing: int) -> str:
    strengths = ", ".join(f"{strength:g}" for strength in request.settings.strengths if strength)
    steps = "step" if len(request.loras) == 1 else "steps"
    parts = [
        f"Judging {steps} {listed(list(request.loras))} at {strengths}",
        f"{counted(len(request.lines), 'prompt')} with the trigger",
        f"{len(request.plain)} without it",
        f"{counted(len(request.settings.seeds), 'seed')}",
    ]
    rest = "" if missing == total else f", of which {total - missing} are there"
    pace = _record_of(request.run).get("seconds_per_image")
    time_left = f"; about {duration(pace * missing)}" if missing and isinstance(pace, int | float) else ""
    return f"{', '.join(parts)}: {counted(total, 'image')}{rest}{time_left}."


def _record_of(run: RunDir) -> dict[str, Any]:
    """``judge.json``, empty where there is none."""
    record = run.read(run.judge_path)
    return record if isinstance(record, dict) else {}


def _training_images(request: JudgeRequest) -> list[Path]:
    """At most 100 of them, evenly spread; of several sets, of all."""
    entries, paths = request.recipe.data.folders, list[Path]()
    for number, entry in enumerate(entries):
        folder, key = (
            entry.images,
            f"data.sets[{number}].images" if request.recipe.data.sets else "data.images",
        )
        if folder is None or not folder.is_dir():
            raise BadData(
                f"{folder}, the images that {request.run.path} was trained on, is gone, and likeness is "
                f"measured to them. Put it back, or name it as {key} in {request.run.recipe_path}."
            )
        content = read_folder(
            folder,
            trigger=entry.trigger,
            default_caption=entry.default_caption,
            control=entry.control,
            masks=entry.masks,
        )
        paths += [example.path for example in content.examples]
    numbers = np.linspace(0, len(paths) - 1, min(len(paths), MOST_TRAINING_IMAGES)).round().astype(int)
    return [paths[number] for number in numbers]


def _features(
    request: JudgeRequest, images: ImageTable, training: list[Path], viewer: Viewer, reporter: Reporter
) -> Features:
    """Have all images looked at."""
    seeds, grid = request.settings.seeds, request.grid
    groups = [
        [images.images[line, *cell, seed].path for cell in grid for line in lines for seed in seeds]
        for lines in (request.lines, request.plain)
    ]
    total = sum(map(len, groups)) + len(training)
    with reporter.progress("Looking", total) as bar:

        def frames() -> Iterator[Image.Image]:
            for path in (*groups[0], *groups[1]):
                yield opened(path)
                bar.advance()
            for path in training:
                yield read_image(path)
                bar.advance()

        features, fits = viewer.view(frames(), request.texts)
    shape = (len(grid), -1, len(seeds))
    ends = np.cumsum([len(groups[0]), len(groups[1])])
    trigger, plain_features, originals = np.split(features, ends)
    return Features(
        trigger=trigger.reshape(len(grid), len(request.lines), len(seeds), -1),
        plain=plain_features.reshape(len(grid), len(request.plain), len(seeds), features.shape[1]),
        training=originals,
        texts=None if fits is None else fits[: ends[0]].reshape(*shape, len(request.texts)),
    )


def _gaps(samples: Samples, request: JudgeRequest) -> list[str]:
    """What is not measured, and why."""
    lines = []
    if "prompt" not in samples.means:
        lines.append(
            "Prompt-following is not measured: the encoder cannot read these prompts. Name nouns that glyph "
            "knows, such as cat or car."
            if request.recipe.base == "glyph" and not request.encoders
            else "Prompt-following is not measured: the encoder has no text tower. Name one such as SigLIP 2 "
            "as a second --encoder."
        )
    if "leak" not in samples.means:
        lines.append("Leak is not measured: no prompt lacks the trigger. Name some with --leak-prompt.")
    if "variety" not in samples.means:
        lines.append("Variety is not measured: there is one seed. Ask for more with --seeds.")
    return lines


def _write_sheet(request: JudgeRequest, images: ImageTable, cells: list[dict[str, Any]]) -> None:
    """Steps as rows and strengths as columns, the base first, of the first prompts and the first seed."""
    strengths = [strength for strength in request.settings.strengths if strength]
    seed = request.settings.seeds[0]
    scores = {(cell["step"], cell["strength"]): cell["score"].mean for cell in cells}
    rows, labels, notes = [], [], []
    for line in request.lines[:SHEET_PROMPTS]:
        for step in request.loras:
            row = [(0, 0.0), *((step, strength) for strength in strengths)]
            rows.append([opened(images.images[line, *cell, seed].path, THUMBNAIL) for cell in row])
            labels.append(f"step {step}: {line.prompt}")
            notes.append(["", *(f"score {scores[cell]:.2f}" for cell in row[1:])])
    columns = ["base", *(f"strength {strength:g}" for strength in strengths)]
    page = sheet(rows, labels, columns, notes=notes)
    atomic_write(request.run.judge_sheet_path, partial(page.save, format="JPEG", quality=90))


def _record(
    report: JudgeReport, request: JudgeRequest, images: ImageTable, pace: float | None
) -> dict[str, Any]:
    """``judge.json``: paths in it are relative to the run folder."""
    run, settings = request.run, request.settings
    old = _record_of(run)
    record = {
        "limner": version("limner"),
        "encoder": report.encoder,
        "prompts": [line.prompt for line in request.lines],
        "leak_prompts": [line.prompt for line in request.plain],
        "seeds": settings.seeds,
        "steps": list(request.loras),
        "strengths": [strength for strength in settings.strengths if strength],
        "ceiling": report.ceiling,
        "cells": report.cells,
        "recommendation": report.recommendation,
        "chosen": old.get("chosen"),
        "seconds_per_image": pace or old.get("seconds_per_image"),
        "sheet": run.judge_sheet_path.relative_to(run.path).as_posix(),
        "images": [
            {
                "prompt": image.line.prompt,
                "step": image.step,
                "strength": image.strength,
                "seed": image.seed,
                "path": image.path.relative_to(run.path).as_posix(),
            }
            for image in images.images.values()
        ],
    }
    return plain(record)
