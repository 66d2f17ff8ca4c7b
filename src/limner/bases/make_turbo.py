"""Makes ``glyph-turbo``, the distilled twin of the embedded base: a LoRA that samples in 4 steps, unguided.

    python -m limner.bases.make_turbo --out build/turbo --install

An ordinary run (``train.objective = "distill"``): the bare base generates the teacher's pictures, with
guidance, and a LoRA of its transformer learns to end there in 4 steps. Called again with the same ``--out``,
it goes on where it was stopped. What ships is the exported file in half precision, and the recipe.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from limner.bases.art import TRAINED_STYLES, nouns
from limner.bases.captions import caption, choose
from limner.files import write_text
from limner.models.registry import EMBEDDED
from limner.recipe import toml
from limner.recipe.schema import Recipe

BASE = "glyph"
NAME = "glyph-turbo"
FILE = "distillation.safetensors"
CONCEPTS = 64
"""Nouns that the base knows."""
STEPS, TEACHER_STEPS, GUIDANCE = 4, 16, 3.0
UPDATES, FREE = 300, 96
"""Of what ships: steps, and captions in free form."""
FREE_SEED = 10**7
"""Of the captions in free form: none that the base was trained on."""


def prompts(free: int) -> tuple[str, ...]:
    """What the teacher is asked for: every noun in every style and alone, and captions in free form.

    These have looks, grounds, colours and made-up words, as those had that the base was trained on.

    Args:
        free: How many of them.
    """
    names = list(nouns())[:CONCEPTS]
    plain = [f"{style} style {noun}" for noun in names for style in TRAINED_STYLES]
    seeds = range(FREE_SEED, FREE_SEED + 2 * free)  # some captions are empty, and some equal
    captions = [
        caption(
            names[seed % CONCEPTS], TRAINED_STYLES[seed // CONCEPTS % 4], choose(seed), seed, strange=True
        )
        for seed in seeds
    ]
    return tuple(dict.fromkeys([*plain, *names, *[text for text in captions if text][:free]]))


def recipe(updates: int, free: int) -> Recipe:
    """The recipe of the distillation."""
    return Recipe.model_validate(
        {
            "name": NAME,
            "base": BASE,
            "lora": {"rank": 16},
            "train": {
                "objective": "distill",
                "steps": updates,
                "batch": 4,
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup": 20,
                "ema": 0.98,
                "save_every": 100,
            },
            "distill": {
                "steps": STEPS,
                "teacher_steps": TEACHER_STEPS,
                "teacher_guidance": GUIDANCE,
                "prompts": prompts(free),
            },
            "sample": {"every": -1},
        }
    )


def limner(*arguments: str) -> None:
    """Run a verb, and stop when it fails."""
    subprocess.run([sys.executable, "-m", "limner", *arguments], check=True)


def install(out: Path) -> Path:
    """Put the file and its recipe where the package looks for them; the model card stays."""
    folder = EMBEDDED / NAME
    folder.mkdir(exist_ok=True)
    for name in (FILE, "recipe.toml"):
        shutil.copy2(out / name, folder / name)
    return folder


def main() -> None:
    """Read the command line, train, round to half precision."""
    parser = argparse.ArgumentParser(description="Distil the embedded base into a twin of few steps.")
    parser.add_argument("--out", type=Path, default=Path("build/turbo"))
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--free", type=int, default=FREE, help="teacher's captions in free form")
    parser.add_argument("--install", action="store_true", help="replace the twin inside the package")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file, run = args.out / "recipe.toml", args.out / "run"
    write_text(file, toml.dump(recipe(args.updates, args.free)))
    limner("train", str(file), "--out", str(run))
    options = ("--out", str(args.out / FILE), "--dtype", "float16")
    limner("lora", "convert", str(run / "lora.safetensors"), "--to", "diffusers", *options)
    if args.install:
        sys.stderr.write(f"Installed in {install(args.out)}\n")


if __name__ == "__main__":
    main()
