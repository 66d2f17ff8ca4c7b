"""Train on the raw embedded base, generate on its distilled twin: what is left of nouns and styles.

    python -m benchmarks.quality.twin --seeds 3

A style of the demo is learned on ``glyph`` as ``limner demo`` learns it. Nouns that were in none of the
images are then asked for on the raw base in 16 steps with guidance, on it in the steps of the twin without
guidance, and on the twin.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from benchmarks import outcome
from limner import demo
from limner.bases.judge import Judge, stack
from limner.generation.settings import Settings
from limner.reporter import PlainText, Reporter
from limner.runs import train

STYLES = ("blueprint", "ink", "fluent3d")
BAR = 0.8
"""Of what the raw base gives in 16 steps."""


def few(lora: Path) -> demo.PromptSampler:
    """The raw base, sampled as its twin is."""
    sampler = demo.PromptSampler(demo.embedded_base(), lora)
    sampler.steps, sampler.settings = 4, Settings(guidance=1.0)
    return sampler


SAMPLERS: dict[str, Callable[[Path], demo.PromptSampler]] = {
    "raw, 16 steps": lambda lora: demo.PromptSampler(demo.embedded_base(), lora),
    "raw, 4 steps, no guidance": few,
    "twin, 4 steps": lambda lora: demo.PromptSampler(demo.embedded_base("glyph-turbo"), lora),
}


def trained(style: str, out: Path, reporter: Reporter) -> Path:
    """A LoRA of a style of the demo."""
    return train(demo.recipe_for(demo.style_lesson(style)), out, reporter).lora


def measure(style: str, lora: Path, seeds: Sequence[int], reporter: Reporter) -> dict[str, dict[str, float]]:
    """Shares of right nouns and right styles by sampler, of a LoRA of one style."""
    judge, lesson = Judge.load(), demo.style_lesson(style)
    nouns = demo.words_of(lesson, judge)
    asks = [lesson.prompt_of(noun) for noun in nouns]
    scores = {}
    for name, make in SAMPLERS.items():
        sampler = make(lora)
        images = [image for seed in seeds for image in sampler.sample(asks, reporter, seed=1000 * seed)]
        scores[name] = dict(lesson.score(judge, stack(images, judge.side), nouns * len(seeds)))
    return scores


def main() -> None:
    """Train, generate, judge, keep."""
    parser = argparse.ArgumentParser(description="What the twin keeps of LoRAs of the raw base.")
    parser.add_argument("--seeds", type=int, default=3, help="images of each noun")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=list(STYLES))
    parser.add_argument("--lora", type=Path, help="of the one style, in place of a training")
    options = parser.parse_args()
    reporter, scores = Reporter(PlainText(sys.stderr)), {}
    for style in options.styles:
        with tempfile.TemporaryDirectory() as place:
            lora = options.lora or trained(style, Path(place) / "run", reporter)
            scores[style] = measure(style, lora, range(options.seeds), reporter)
    results = {
        sampler: {
            figure: mean(row[sampler][figure] for row in scores.values()) for figure in ("concept", "style")
        }
        for sampler in SAMPLERS
    }
    outcome.save("twin", {"seeds": options.seeds, "results": results, "styles": scores})
    rows = [[name, f"{row['concept']:.0%}", f"{row['style']:.0%}"] for name, row in results.items()]
    sys.stdout.write(outcome.table(["", "noun", "style"], rows) + "\n")
    raw, twin = results["raw, 16 steps"], results["twin, 4 steps"]
    holds = all(twin[figure] >= BAR * raw[figure] for figure in raw)
    sys.stdout.write(f"At least {BAR:.0%} of the raw base's: {'yes' if holds else 'no'}\n")


if __name__ == "__main__":
    main()
