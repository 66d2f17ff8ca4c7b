"""One subject before one and the same busy ground, trained with masks and without: what goes where.

    python -m benchmarks.quality.masks --steps 240

Ten poses of the mascot stand before red and cream stripes that no caption mentions, as photos of one thing
stand in one room. The LoRA is then asked for the mascot on plain grounds of ten colours: a judge says whether
it is there, and the rim of each picture whether the ground is the one that was asked for.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import outcome
from limner import demo
from limner.bases.captions import GROUNDS
from limner.bases.demo_sets import MASCOTS
from limner.bases.judge import Judge, subject_score
from limner.bases.mascot import drawn
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter
from limner.runs import train

STRIPES = (GROUNDS["red"], GROUNDS["cream"])
STRIPE = 16
"""Pixels of 128 that a stripe is wide."""
RIM, TOLERANCE, SHARE = 4, 48, 0.8
"""A ground is the one that was asked for when such a share of the outer pixels is so near to its colour."""
TEST_GROUNDS = tuple(name for name in demo.GROUNDS if name != "cream")
RECIPE = {"train.batch": 4, "train.learning_rate": 1e-3, "train.save_every": 10_000, "lora.rank": 16}


def write_images(folder: Path) -> Path:
    """Pictures with captions, and their masks beside them."""
    folder.mkdir(parents=True)
    down, columns = np.mgrid[:128, :128]
    ground = np.array(STRIPES, np.float32)[(down + columns) // STRIPE % 2]
    for number, (_, pose) in enumerate(MASCOTS):
        pixels = drawn(pose)
        alpha = pixels[..., 3:].astype(np.float32) / 255
        mixed = pixels[..., :3] * alpha + ground * (1 - alpha)
        Image.fromarray(mixed.round().astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(pixels[..., 3]).save(folder / f"{number}-mask.png")
        holding = f", holding a {pose.prop}" if pose.prop else ""
        (folder / f"{number}.txt").write_text(f"[trigger]{holding}")
    return folder


def obeyed(images: np.ndarray, colours: np.ndarray) -> float:
    """Share of pictures (N, H, W, 3) whose rim has the colour that was asked for (N, 3)."""
    region = np.zeros(images.shape[1:3], bool)
    region[RIM:-RIM, RIM:-RIM] = True
    distances = np.abs(images[:, ~region].astype(int) - colours[:, None]).max(2)
    return float(((distances < TOLERANCE).mean(1) >= SHARE).mean())


def measure(recipe: Recipe, out: Path, judge: Judge, seeds: int, reporter: Reporter) -> dict[str, float]:
    """Train, ask for the subject on each ground, judge."""
    result = train(recipe, out, reporter)
    images = demo.PromptSampler(demo.embedded_base(), result.lora).sample(
        [f"{demo.TRIGGER}, on a {ground} background" for ground in TEST_GROUNDS] * seeds, reporter, seed=10**6
    )
    pixels = demo.stack(images, judge.side)
    colours = np.array([GROUNDS[ground] for ground in TEST_GROUNDS] * seeds)
    return {
        "subject": subject_score(judge, pixels),
        "ground": obeyed(pixels, colours),
        "training seconds": round(result.seconds, 1),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description="What masks keep out of a LoRA.")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each ground")
    parser.add_argument("--floors", type=float, nargs="*", default=[0.0, 0.1])
    options = parser.parse_args()
    judge, reporter, results = Judge.load(), Reporter(PlainText(sys.stderr)), dict[str, Any]()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        images = write_images(Path(place) / "images")
        plain = toml.change(
            Recipe(base=demo.BASE, sample={"every": -1}),
            {**RECIPE, "data.images": images, "data.trigger": demo.TRIGGER, "train.steps": options.steps},
        )
        recipes = {"without masks": plain} | {
            f"masks, floor {floor:g}": toml.change(
                plain, {"data.masks": "sidecar", "train.mask_floor": floor}
            )
            for floor in options.floors
        }
        for number, (name, recipe) in enumerate(recipes.items()):
            results[name] = measure(recipe, Path(place) / f"{number}", judge, options.seeds, reporter)
    seconds = time.process_time() - start
    facts = {
        "steps": options.steps,
        "images": len(TEST_GROUNDS) * options.seeds,
        "cpu_seconds": round(seconds, 1),
    }
    outcome.save("masks", {**facts, "results": results})
    rows = [[name, f"{row['subject']:.0%}", f"{row['ground']:.0%}"] for name, row in results.items()]
    sys.stdout.write(outcome.table(["", "the subject", "the ground that was asked for"], rows) + "\n")


if __name__ == "__main__":
    main()
