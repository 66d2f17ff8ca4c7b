"""What keeps the base as it is, at equal time: class images that it paints, or itself as the teacher.

    python -m benchmarks.quality.priors --seeds 1

The two LoRAs of ``limner demo`` are trained without a prior, with painted class images, with the teacher and
with the blank caption. All take the same time: a prior that makes steps slower gets fewer of them, and the
painting counts. The time of a step is measured first, the priors in turn.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.quality.demo_quality import run

from benchmarks import outcome
from limner import demo
from limner.bases.judge import Judge
from limner.recipe import toml
from limner.reporter import PlainText, Reporter
from limner.run_folder import RunDir
from limner.runs import train

TIMED_STEPS, ROUNDS = 20, 3
"""Steps of a run whose steps are timed, and how often the priors take their turn."""
TAUGHT = {"prior.prompts": (), "prior.batch": 2, "prior.weight": 1.0}
PRIORS: Mapping[str, Mapping[str, Any]] = {
    "none": {"prior.prompts": ()},
    "class images": {},
    "teacher": {**TAUGHT, "prior.kind": "teacher"},
    "blank": {**TAUGHT, "prior.kind": "blank"},
}
"""What differs from the demo's recipe."""
COMMON = {"data.caption_dropout": 0.0}
"""A blank prior keeps the empty caption, which dropped captions would train."""


def costs(lesson: demo.DemoRun, reporter: Any) -> dict[str, tuple[float, float]]:
    """Prior -> seconds before the first step that it costs, and of a step."""
    short = {"train.steps": TIMED_STEPS, "train.warmup": 0, "sample.every": -1, **COMMON}
    recipe = toml.change(demo.recipe_for(lesson), short)
    steps: dict[str, list[float]] = {name: [] for name in PRIORS}
    befores: dict[str, list[float]] = {name: [] for name in PRIORS}
    for _ in range(ROUNDS):
        for name, changes in PRIORS.items():
            with tempfile.TemporaryDirectory() as place:
                start = time.monotonic()
                train(toml.change(recipe, changes), Path(place), reporter)
                seconds = time.monotonic() - start
                rows = [row["seconds"] for row in RunDir(Path(place)).metrics() if "loss" in row]
            steps[name] += rows[5:]
            befores[name].append(seconds - sum(rows))
    least = min(median(times) for times in befores.values())
    return {name: (median(befores[name]) - least, median(steps[name])) for name in PRIORS}


def steps_at_equal_time(lesson: demo.DemoRun, reporter: Any) -> dict[str, int]:
    """Prior -> the steps that it has in the time of the lesson without one."""
    measured, whole = costs(lesson, reporter), demo.recipe_for(lesson).train.steps
    budget = sum(measured["none"]) + (whole - 1) * measured["none"][1]
    return {name: max(1, round((budget - before) / step)) for name, (before, step) in measured.items()}


def figures_of(
    name: str, steps: Mapping[str, Mapping[str, int]], seeds: int, judge: Judge, reporter: Any
) -> dict[str, float]:
    """Means over seeds of both lessons."""
    lessons = {"style": demo.style_lesson(), "subject": demo.subject_lesson()}
    rows = {
        kind: [
            run(lesson, judge, seed, reporter, **{"train.steps": steps[kind][name], **COMMON, **PRIORS[name]})
            for seed in range(seeds)
        ]
        for kind, lesson in lessons.items()
    }
    figures: dict[str, float] = {}
    for kind, entries in rows.items():
        figures[f"{kind} steps"] = steps[kind][name]
        figures[f"{kind} with trigger"] = mean(row["after"] for row in entries)
        figures[f"{kind} without trigger"] = mean(row["without_trigger"] for row in entries)
        figures[f"{kind}: noun lost without trigger"] = mean(
            row["concept_of_base"] - row["concept_without_trigger"] for row in entries
        )
        figures[f"{kind} training seconds"] = mean(row["training_seconds"] for row in entries)
    return figures


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description="What keeps the base as it is, at equal time.")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    steps = {
        "style": steps_at_equal_time(demo.style_lesson(), reporter),
        "subject": steps_at_equal_time(demo.subject_lesson(), reporter),
    }
    columns: dict[str, dict[str, float]] = {}
    for name in PRIORS:
        columns[name] = figures_of(name, steps, options.seeds, judge, reporter)
        outcome.save("priors", {"seeds": options.seeds, "priors": columns})
    rows = [
        [
            key,
            *(
                f"{column[key]:.0f}" if key[-1] == "s" else f"{column[key]:.2f}"
                for column in columns.values()
            ),
        ]
        for key in columns["none"]
    ]
    sys.stdout.write(outcome.table(["", *columns], rows) + "\n")


if __name__ == "__main__":
    main()
