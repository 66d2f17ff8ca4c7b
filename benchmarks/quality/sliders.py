"""Concept sliders on the embedded base: the judge's score at five strengths, and whether the noun stays.

    python -m benchmarks.quality.sliders --seeds 2 --out FOLDER

Each slider is trained on ten nouns without an image of anybody's, and asked for nouns that it was not
trained on at five strengths. The score lies along the way from what the base paints of the negative prompt,
0, to what it paints of the positive one, 1, in the features by which the judge tells styles. A run that is in
the folder is not trained again, and what the file of results holds already is not measured again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks import outcome
from limner import demo
from limner.bases.demo_sets import NOUNS
from limner.bases.judge import Judge, stack
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter
from limner.runs import train

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
SLIDERS = {
    "red ... blue": ("red [neutral]", "blue [neutral]"),
    "outline": ("[neutral], outline drawing", "[neutral]"),
    "outline ... silhouette": ("[neutral], outline drawing", "[neutral], silhouette"),
}
"""Name -> positive and negative prompt. The negative one of the second is the neutral prompt itself."""
NEW_SEEDS = 10**6


def recipe_for(positive: str, negative: str, steps: int, seed: int) -> Recipe:
    """A slider of the embedded base."""
    return Recipe(
        base=demo.BASE,
        seed=seed,
        lora={"rank": 8},
        train={"objective": "slider", "steps": steps, "batch": 4, "learning_rate": 1e-3, "save_every": 1000},
        slider={"neutral": NOUNS, "positive": positive, "negative": negative, "images_per_prompt": 2},
        sample={"every": -1},
    )


def painted(
    lora: Path | None, strength: float, prompts: Sequence[str], judge: Judge, seed: int
) -> np.ndarray:
    """(N, S, S, 3) uint8: a picture of each prompt, from seeds that training did not see."""
    sampler = demo.PromptSampler(demo.embedded_base(), lora)
    sampler.strengths = {"lora": strength} if lora else {}
    return stack(sampler.sample(prompts, Reporter(), seed=NEW_SEEDS + 1000 * seed), judge.side)


def noun_share(judge: Judge, images: np.ndarray, nouns: Sequence[str]) -> float:
    """Share of pictures told as their nouns."""
    numbers = np.array([judge.concept_names.index(noun) for noun in nouns])
    return float((judge.concepts(images).argmax(1) == numbers).mean())


def measured(
    ends: tuple[str, str], lora: Path, judge: Judge, count: int, seed: int
) -> list[dict[str, float]]:
    """The judge's score and the share of right nouns at each strength."""
    nouns = demo.test_nouns(judge)[:count]
    prompts = [[end.replace("[neutral]", noun) for noun in nouns] for end in ends]
    positive, negative = (
        judge.features(painted(None, 0.0, texts, judge, seed), of_style=True).mean(0) for texts in prompts
    )
    way = positive - negative
    rows = []
    for strength in STRENGTHS:
        images = painted(lora, strength, nouns, judge, seed)
        scores = (judge.features(images, of_style=True) - negative) @ way / (way @ way)
        rows.append(
            {"strength": strength, "score": float(scores.mean()), "noun": noun_share(judge, images, nouns)}
        )
    return rows


def kept(steps: int, nouns: int) -> dict[str, list[list[dict[str, float]]]]:
    """Slider -> the rows of each seed that the file of results holds already."""
    path = outcome.RESULTS / "sliders.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record["sliders"] if (record.get("steps"), record.get("nouns")) == (steps, nouns) else {}


def main() -> None:
    """Train, paint, judge, keep."""
    parser = argparse.ArgumentParser(description="Concept sliders on the embedded base.")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--nouns", type=int, default=8, help="that are asked for")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    results = kept(options.steps, options.nouns)
    for seed in range(options.seeds):
        for name, ends in SLIDERS.items():
            seeds = results.setdefault(name, [])
            if len(seeds) > seed:
                continue
            recipe = recipe_for(*ends, options.steps, seed)
            lora = train(recipe, options.out / f"{name.replace(' ... ', '-')}-{seed}", reporter).lora
            assert lora is not None
            seeds.append(measured(ends, lora, judge, options.nouns, seed))
            outcome.save("sliders", {"steps": options.steps, "nouns": options.nouns, "sliders": results})
    table = [
        [f"{name}, seed {seed}: {key}", *(f"{row[key]:.2f}" for row in rows)]
        for name, seeds in results.items()
        for seed, rows in enumerate(seeds)
        for key in ("score", "noun")
    ]
    sys.stdout.write(outcome.table(["", *(f"{strength:g}" for strength in STRENGTHS)], table) + "\n")
    for name, seeds in results.items():
        for seed, rows in enumerate(seeds):
            rises = all(low["score"] < high["score"] for low, high in pairwise(rows))
            sys.stdout.write(f"{name}, seed {seed}: {'monotone' if rises else 'not monotone'}\n")


if __name__ == "__main__":
    main()
