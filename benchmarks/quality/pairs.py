"""A differential LoRA on the embedded base: is the change learned, and what the images show left alone?

    python -m benchmarks.quality.pairs --out FOLDER

Two sets of ten pairs each, plain before and as blueprints after; none of the base's pictures are blueprints.
"one subject": poses of the mascot, which the base has never seen either, all with one caption. "ten nouns":
what the base itself generates of ten nouns, each the caption of its image. Trained on these pairs, and beside
it, at as many steps, on the images after alone. The LoRAs are then asked for nouns that no image shows: the
judge says how many pictures have become blueprints, how many still show their noun, and how many show the
mascot, which no prompt asks for; and for the caption of the first set. A run that
is in the folder is not trained again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import outcome
from limner import demo
from limner.bases.captions import GROUNDS
from limner.bases.demo_sets import MASCOTS, NOUNS
from limner.bases.judge import Judge, style_scores, subject_score
from limner.bases.looks import dressed
from limner.bases.mascot import drawn
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter
from limner.runs import train

LOOK, CAPTION = "blueprint", "a toy"


def write_subject(root: Path) -> None:
    """The poses of the mascot, with one caption."""
    pixels = np.stack([drawn(pose) for _, pose in MASCOTS]).astype(np.float32) / 255
    drawings = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    colours = np.array([GROUNDS[ground] for ground, _ in MASCOTS], np.float32) / 255
    ground = torch.from_numpy(colours)[:, :, None, None]
    write_pairs(root, drawings[:, :3], drawings[:, 3:], ground, [CAPTION] * len(pixels))


def write_nouns(root: Path, reporter: Reporter) -> None:
    """What the base generates of ten nouns; what differs from the ground in the corner is the thing."""
    sampler = demo.PromptSampler(demo.embedded_base())
    images = sampler.sample([f"{noun}, on a white background" for noun in NOUNS], reporter, seed=40)
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images]).astype(np.float32) / 255
    rgb = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    ground = rgb[:, :, :3, :3].mean((2, 3), keepdim=True)
    alpha = ((rgb - ground).abs().amax(1, keepdim=True) * 6).clamp(0, 1)
    write_pairs(root, rgb, alpha, ground, NOUNS)


def write_pairs(root: Path, rgb: Tensor, alpha: Tensor, ground: Tensor, captions: Sequence[str]) -> None:
    """Drawings (N, 3, S, S) on their ground in ``root/before``, and in ``root/after`` in the look."""
    ground = ground.expand_as(rgb)
    after = dressed(LOOK, rgb, alpha, ground, torch.zeros(len(rgb)))
    for name, images in (("before", rgb * alpha + ground * (1 - alpha)), ("after", after)):
        (root / name).mkdir(parents=True, exist_ok=True)
        frames = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for number, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
            Image.fromarray(frame).save(root / name / f"{number}.png")
            (root / name / f"{number}.txt").write_text(caption)


def recipes(root: Path, steps: int, seed: int) -> dict[str, Recipe]:
    """On the pairs, and on the images after alone."""
    plain = toml.change(
        Recipe(base=demo.BASE, seed=seed),
        {
            "sample.every": -1,
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
    """Train both ways on both sets, generate, judge, keep."""
    parser = argparse.ArgumentParser(description="What a differential LoRA learns, and what it does not.")
    parser.add_argument("--steps", type=int, default=300, help="of each phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each noun")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    base = scores_of(judge, None, options.seeds, reporter)
    write_subject(options.out / "subject")
    write_nouns(options.out / "nouns", reporter)
    sets: dict[str, dict[str, Any]] = {}
    for title, name in (("one subject, one caption", "subject"), ("ten nouns, their captions", "nouns")):
        columns = sets.setdefault(title, {"base": base})
        for way, recipe in recipes(options.out / name, options.steps, options.seed).items():
            run = options.out / f"{name}-{way.strip('[]').replace(' ', '-')}-{options.steps}-{options.seed}"
            columns[way] = scores_of(judge, train(recipe, run, reporter).lora, options.seeds, reporter)
    facts = {"steps": options.steps, "seed": options.seed, "seeds": options.seeds}
    outcome.save("pairs", {**facts, "sets": sets})
    for title, columns in sets.items():
        rows = [[key, *(f"{column[key]:.0%}" for column in columns.values())] for key in base]
        sys.stdout.write(f"{title}\n{outcome.table(['share of pictures', *columns], rows)}\n")


if __name__ == "__main__":
    main()
