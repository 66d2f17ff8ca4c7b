"""Token vectors of a new word beside a LoRA: what each learns of the demo's lessons, and how fast.

    python -m benchmarks.quality.inversion --steps 300

The lessons are those of ``limner demo`` without its prior, which token vectors need none of: a prompt without
their word is answered by the base. A judge that learned from real art says what was learned.
What the file of results holds already, of as many steps, is not measured again.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import outcome
from limner import demo
from limner.bases.demo_sets import folder
from limner.bases.judge import Judge
from limner.generation.words import with_words
from limner.lora import embeddings
from limner.models.presets import preset
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter
from limner.runs import train

WAYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("lora", {}),
    "1 vector": ("inversion", {"inversion.tokens": 1}),
    "4 vectors": ("inversion", {"inversion.tokens": 4}),
    "4 vectors and a LoRA": ("pivotal", {"inversion.tokens": 4, "inversion.until": 0.5}),
}
"""What is trained -> method of the preset, and values of the recipe."""


def recipe_of(lesson: demo.DemoRun, method: str, changes: Mapping[str, Any], steps: int) -> Recipe:
    """The preset of ten pictures on the embedded base."""
    values = {
        "name": lesson.name,
        "data.images": folder(lesson.images),
        "data.trigger": demo.TRIGGER,
        "data.min_side": 16,
        "sample.every": -1,
        "sample.prompts": (),
        "train.steps": steps,
        "train.save_every": steps,
    }
    return toml.change(preset(lesson.concept_type, demo.BASE, 10, method), {**values, **changes})


def figures_of(
    lesson: demo.DemoRun, recipe: Recipe, out: Path, judge: Judge, reporter: Reporter
) -> dict[str, Any]:
    """Shares that the judge recognises, with the word and without it, and seconds of the training."""
    result = train(recipe, out, reporter)
    word_list, nouns = demo.words_of(lesson, judge), demo.test_nouns(judge)
    prompts = [lesson.prompt_of(word) for word in word_list]
    repeats = max(1, len(nouns) // len(prompts))
    sampler = demo.PromptSampler(demo.embedded_base(), result.lora)
    words = [embeddings.read(result.embedding)] if result.embedding else []
    with with_words(sampler.pipe, sampler.family, words):
        images = demo.stack(sampler.sample(prompts * repeats, reporter, seed=7000), judge.side)
        other_images = demo.stack(sampler.sample(nouns, reporter, seed=9000), judge.side)
    scores = lesson.score(judge, images, word_list * repeats)
    return {
        "learned": scores[lesson.figure],
        "noun": scores.get("concept"),
        "without the word": lesson.leak(judge, other_images, nouns)[lesson.figure],
        "seconds": round(result.seconds, 1),
        "bytes": sum(path.stat().st_size for path in (result.lora, result.embedding) if path),
    }


def measured(steps: int) -> dict[str, dict[str, Any]]:
    """What the file of results holds already of so many steps."""
    path = outcome.RESULTS / "inversion.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record["ways"] if record.get("steps") == steps else {}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description="What token vectors learn, beside a LoRA.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=None, help="of the vectors; left out: the recipe's own")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    results = measured(options.steps)
    for way in options.ways:
        method, changes = WAYS[way]
        if options.rate is not None and method != "lora":
            changes = {**changes, "inversion.rate": options.rate}
        results.setdefault(way, {})
        for lesson in (demo.subject_lesson(), demo.style_lesson()):
            if lesson.figure in results[way]:
                continue
            with TemporaryDirectory() as place:
                recipe = recipe_of(lesson, method, changes, options.steps)
                results[way][lesson.figure] = figures_of(lesson, recipe, Path(place) / "run", judge, reporter)
            outcome.save("inversion", {"steps": options.steps, "ways": results})
    header = [
        "trained",
        "subject",
        "style",
        "noun in the style",
        "style without the word",
        "bytes",
        "seconds",
    ]
    rows = [
        [
            way,
            f"{row['subject']['learned']:.0%}",
            f"{row['style']['learned']:.0%}",
            f"{row['style']['noun']:.0%}",
            f"{row['style']['without the word']:.0%}",
            str(row["subject"]["bytes"]),
            f"{row['subject']['seconds']:.0f}",
        ]
        for way, row in results.items()
        if len(row) == 2
    ]
    sys.stdout.write(outcome.table(header, rows) + "\n")


if __name__ == "__main__":
    main()
