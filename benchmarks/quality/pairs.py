"""A differential LoRA on the embedded base: is the change learned, and what the images show left alone?

    python -m benchmarks.quality.pairs

Ten poses of the mascot, drawn plain and as blueprints, are the images before and after; none of the base's
pictures show either. The caption of all is one word. Trained on these pairs, and beside it, at as many steps,
on the images after alone. Both LoRAs are then asked for nouns: the judge says how many pictures have become
blueprints, how many still show their noun, and how many show the mascot, which no prompt asks for; and for
the word of the captions, where the mascot must not come either.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import outcome
from limner import demo
from limner.bases.captions import GROUNDS
from limner.bases.demo_sets import MASCOTS
from limner.bases.judge import Judge, style_scores, subject_score
from limner.bases.looks import dressed
from limner.bases.mascot import drawn
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter
from limner.runs import train

LOOK, CAPTION = "blueprint", "a toy"


def write_images(root: Path) -> None:
    """The poses in ``root/before`` as they are drawn, and in ``root/after`` in the look, with one caption."""
    pixels = np.stack([drawn(pose) for _, pose in MASCOTS]).astype(np.float32) / 255
    drawings = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    rgb, alpha = drawings[:, :3], drawings[:, 3:]
    colours = np.array([GROUNDS[ground] for ground, _ in MASCOTS], np.float32) / 255
    ground = torch.from_numpy(colours)[:, :, None, None].expand_as(rgb)
    after = dressed(LOOK, rgb, alpha, ground, torch.zeros(len(rgb)))
    for name, images in (("before", rgb * alpha + ground * (1 - alpha)), ("after", after)):
        (root / name).mkdir(parents=True)
        frames = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(root / name / f"{number}.png")
            (root / name / f"{number}.txt").write_text(CAPTION)


def recipes(root: Path, steps: int, seed: int) -> dict[str, Recipe]:
    """On the pairs, and on the images after alone."""
    plain = toml.change(
        Recipe(base=demo.BASE, seed=seed, sample={"every": -1}),
        {
            "train.steps": steps,
            "train.batch": 4,
            "train.learning_rate": 1e-3,
            "train.save_every": 10_000,
            "lora.rank": 16,
            "data.min_side": 16,
        },
    )
    pair = {"before": root / "before", "after": root / "after"}
    return {
        "[[pairs]]": toml.change(plain, {"pairs": [pair]}),
        "images after alone": toml.change(plain, {"data.images": root / "after"}),
    }


def scores_of(judge: Judge, lora: Path | None, seeds: int, reporter: Reporter) -> dict[str, float]:
    """Shares of the pictures that are asked for by nouns, and by the caption of the images."""
    sampler = demo.PromptSampler(demo.embedded_base(), lora)
    nouns = demo.test_nouns(judge) * seeds
    of_nouns = demo.stack(sampler.sample(nouns, reporter, seed=7000), judge.side)
    of_caption = demo.stack(sampler.sample([CAPTION] * len(nouns), reporter, seed=9000), judge.side)
    scores = style_scores(judge, of_nouns, nouns, LOOK)
    return {
        "nouns: in the look": scores["style"],
        "nouns: still the noun": scores["concept"],
        "nouns: the mascot": subject_score(judge, of_nouns),
        "the caption: the mascot": subject_score(judge, of_caption),
    }


def main() -> None:
    """Train both ways, paint, judge, keep."""
    parser = argparse.ArgumentParser(description="What a differential LoRA learns, and what it does not.")
    parser.add_argument("--steps", type=int, default=150, help="of each phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each noun")
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    start = time.process_time()
    columns: dict[str, dict[str, Any]] = {"base": scores_of(judge, None, options.seeds, reporter)}
    with tempfile.TemporaryDirectory() as place:
        write_images(Path(place))
        for number, (name, recipe) in enumerate(recipes(Path(place), options.steps, options.seed).items()):
            done = train(recipe, Path(place) / f"run-{number}", reporter)
            columns[name] = scores_of(judge, done.lora, options.seeds, reporter)
    seconds = time.process_time() - start
    facts = {"steps": options.steps, "seed": options.seed, "seeds": options.seeds}
    outcome.save("pairs", {**facts, "cpu_seconds": round(seconds, 1), "figures": columns})
    rows = [[key, *(f"{column[key]:.0%}" for column in columns.values())] for key in columns["base"]]
    sys.stdout.write(outcome.table(["share of pictures", *columns], rows) + "\n")


if __name__ == "__main__":
    main()
