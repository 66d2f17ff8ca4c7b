"""What the demo's LoRAs change, over seeds and against controls: the table of the demo's bars.

    python -m benchmarks.quality.demo_quality --seeds 3

A style that the base never saw and a subject that nobody saw are trained as ``limner demo`` trains them.
Nouns of the prompts are in none of the pictures. Controls: a LoRA of 0 steps, and one whose trigger stands
at other pictures.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import outcome
from limner import demo
from limner.assembly.resolve import resolve_base
from limner.bases.demo_sets import folder
from limner.bases.judge import Judge
from limner.generation.class_images import prior
from limner.recipe import toml
from limner.reporter import PlainText, Reporter
from limner.run_folder import RunDir

BARS = {
    "style with trigger, before": ("<=", 0.10),
    "style with trigger": (">=", 0.80),
    "concept in the style / of the base": (">=", 0.60),
    "style without trigger": ("<=", 0.20),
    "concept lost without trigger": ("<=", 0.10),
    "subject with trigger": (">=", 0.80),
    "subject without trigger": ("<=", 0.05),
    "style, 0 steps": ("<=", 0.10),
    "style, trigger at other pictures": ("<=", 0.10),
}


def shuffled(lesson: demo.DemoRun, other: str, out: Path) -> Path:
    """The lesson's captions at the pictures of ``other``; its own pictures with an empty caption."""
    out.mkdir(parents=True)
    subject_paths, other_paths = (sorted(folder(name).glob("*.png")) for name in (lesson.images, other))
    for number, (subject_path, foreign) in enumerate(zip(subject_paths, other_paths, strict=True)):
        (out / f"{number}-foreign.png").write_bytes(foreign.read_bytes())
        (out / f"{number}-foreign.txt").write_bytes(subject_path.with_suffix(".txt").read_bytes())
        (out / f"{number}-own.png").write_bytes(subject_path.read_bytes())
        (out / f"{number}-own.txt").write_text("picture\n")
    return out


def run(
    lesson: demo.DemoRun,
    judge: Judge,
    seed: int,
    reporter: Any,
    base_sampler: demo.PromptSampler | None = None,
    /,
    **changes: Any,
) -> dict[str, Any]:
    """The figures of one lesson, in a folder of its own.

    Args:
        lesson: What is learned.
        judge: Says how well.
        seed: Of the training and of the pictures.
        reporter: Hears of progress.
        base_sampler: Keeps what the bare base paints, for further runs.
        changes: Keys of the recipe by dotted path.
    """
    images = changes.pop("images", None)
    wish = toml.change(demo.recipe_for(lesson, seed=seed, images=images), changes)
    with tempfile.TemporaryDirectory() as place:
        figures, _ = demo.teach(lesson, wish, Path(place) / "run", judge, reporter, base_sampler)
    return {name: value for name, value in figures.items() if name != "path"}


def class_images(seed: int, out: Path, reporter: Any) -> dict[str, Any]:
    """Paint the class images of the demo's recipes, once for many runs: the keys that name them."""
    recipe = demo.recipe_for(demo.subject_lesson(), seed=seed)
    return {"prior.prompts": (), "prior.images": prior(resolve_base(recipe), RunDir(out), reporter)}


def over(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """The mean of a figure over seeds."""
    return mean(row[name] for row in rows)


def measure(style: str, seeds: int, reporter: Any) -> dict[str, Any]:
    """Every figure of the table."""
    judge = Judge.load()
    style_lesson, subject = demo.style_lesson(style), demo.subject_lesson()
    styles = [run(style_lesson, judge, seed, reporter) for seed in range(seeds)]
    subjects = [run(subject, judge, seed, reporter) for seed in range(seeds)]
    untrained_run = run(style_lesson, judge, 0, reporter, **{"train.steps": 0, "train.warmup": 0})
    with tempfile.TemporaryDirectory() as place:
        other = "ink" if style != "ink" else "fluent3d"
        images = shuffled(style_lesson, other, Path(place) / "shuffled")
        wrong = run(style_lesson, judge, 0, reporter, images=images, **{"data.trigger": demo.TRIGGER})
    base = over(styles, "concept_of_base")
    return {
        "style with trigger, before": over(styles, "before"),
        "style with trigger": over(styles, "after"),
        "concept of the base": base,
        "concept in the style / of the base": over(styles, "concept_with_trigger") / max(base, 1e-9),
        "style without trigger": over(styles, "without_trigger"),
        "concept lost without trigger": base - over(styles, "concept_without_trigger"),
        "subject with trigger, before": over(subjects, "before"),
        "subject with trigger": over(subjects, "after"),
        "subject without trigger": over(subjects, "without_trigger"),
        "style, 0 steps": untrained_run["after"],
        "style, trigger at other pictures": wrong["after"],
        "seconds per LoRA": max(over(styles, "seconds"), over(subjects, "seconds")),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description="What the demo's LoRAs change.")
    parser.add_argument("--style", default=demo.STYLE)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    figures = measure(options.style, options.seeds, Reporter(PlainText(sys.stderr)))
    rows = []
    for name, value in figures.items():
        sign, bar = BARS.get(name, ("", None))
        answer = "" if bar is None else ("yes" if (value <= bar if sign == "<=" else value >= bar) else "no")
        rows.append([name, f"{value:.2f}", "" if bar is None else f"{sign} {bar:.2f}", answer])
    print(outcome.table(["what", "measured", "bar", "met"], rows))
    outcome.save("demo_quality", {"style": options.style, "seeds": options.seeds, "figures": figures})


if __name__ == "__main__":
    main()
