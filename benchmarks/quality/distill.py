"""Distil the embedded base into a few steps, and have the judge say what is left of its nouns.

    python -m benchmarks.quality.distill --steps 4 --updates 300 --out FOLDER

A teacher, the bare base with guidance, paints every noun in one of its styles. The LoRA that is distilled of
them is loaded by stock diffusers and asked for the same nouns from seeds that training never saw.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.quality.base_quality import Ask, Way, generate

from benchmarks import outcome
from limner import demo
from limner.assembly.base import family_at
from limner.bases.art import TRAINED_STYLES
from limner.bases.judge import Judge, style_scores
from limner.generation.pipeline import pipeline
from limner.lora.location import locate_base
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter
from limner.runs import train

TEACHER_STEPS, GUIDANCE, NEW_SEEDS = 16, 3.0, 10**9


def asks_of(judge: Judge, seeds: int) -> list[Ask]:
    """Every noun, the styles in turn, from seeds of the exam."""
    return [
        Ask(noun, TRAINED_STYLES[(number + turn) % len(TRAINED_STYLES)], NEW_SEEDS + 1000 * turn + number)
        for turn in range(seeds)
        for number, noun in enumerate(judge.concept_names)
    ]


def share_of(judge: Judge, pipe: Any, asks: list[Ask], steps: int, guidance: float) -> dict[str, float]:
    """Shares of right nouns and right styles."""
    images = generate(pipe, asks, Way(steps=steps, guidance=guidance, batch=16, side=64, text_length=20))
    by_style: dict[str, list[int]] = {}
    for number, ask in enumerate(asks):
        by_style.setdefault(ask.style, []).append(number)
    totals = {"concept": 0.0, "style": 0.0}
    for style, rows in by_style.items():
        scores = style_scores(judge, images[rows], [asks[row].noun for row in rows], style)
        totals = {name: totals[name] + scores[name] * len(rows) / len(asks) for name in totals}
    return {"noun": totals["concept"], "style": totals["style"]}


def main() -> None:
    """Train, paint, judge, keep."""
    parser = argparse.ArgumentParser(description="What a distilled LoRA keeps of its teacher.")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=2, help="of the teacher, per noun")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=2, help="pictures of the exam per noun")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    judge, source = Judge.load(), locate_base(demo.BASE)
    recipe = Recipe(
        base=demo.BASE,
        train={
            "objective": "distill",
            "steps": options.updates,
            "batch": options.batch,
            "learning_rate": options.rate,
            "schedule": "cosine",
            "save_every": 100,
        },
        distill={
            "steps": options.steps,
            "teacher_steps": TEACHER_STEPS,
            "teacher_guidance": GUIDANCE,
            "prompts": tuple(
                f"{TRAINED_STYLES[number % len(TRAINED_STYLES)]} style {noun}"
                for number, noun in enumerate(judge.concept_names)
            ),
            "images_per_prompt": options.pictures,
        },
        sample={"every": -1},
    )
    start = time.monotonic()
    result = train(recipe, options.out, Reporter(PlainText(sys.stderr)))
    seconds = time.monotonic() - start
    family, asks = family_at(source), asks_of(judge, options.seeds)
    bare = pipeline(family, source)
    results = {
        f"teacher, {TEACHER_STEPS} steps": share_of(judge, bare, asks, TEACHER_STEPS, GUIDANCE),
        f"base, {options.steps} steps": share_of(judge, bare, asks, options.steps, GUIDANCE),
        f"base, {options.steps} steps, no guidance": share_of(judge, bare, asks, options.steps, 1.0),
        f"distilled, {options.steps} steps, no guidance": share_of(
            judge, pipeline(family, source, {"student": result.lora}), asks, options.steps, 1.0
        ),
    }
    facts = {"updates": options.updates, "batch": options.batch, "pictures": options.pictures}
    outcome.save("distill", {**facts, "steps": options.steps, "seconds": seconds, "results": results})
    rows = [[name, f"{row['noun']:.0%}", f"{row['style']:.0%}"] for name, row in results.items()]
    sys.stdout.write(outcome.table(["", "noun", "style"], rows) + "\n")


if __name__ == "__main__":
    main()
