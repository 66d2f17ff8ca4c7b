"""Two mascots in one LoRA, each with its trigger: does each come when it is called, and only then?

    python -m benchmarks.quality.two_subjects --out FOLDER

The second mascot is the first stood on its head in other colours (red and blue exchanged). The judge
knows the first, and takes neither for the other: of training pictures it recognises the first, and the
second once it is turned back. Trained with and without the bare base as the teacher, as two ``data.sets``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import outcome
from limner import demo
from limner.bases.demo_sets import folder
from limner.bases.judge import Judge, style_scores, subject_score
from limner.models.presets import preset
from limner.recipe import toml
from limner.reporter import PlainText, Reporter
from limner.runs import train

FIRST, SECOND = demo.TRIGGER, "quovim"
CLASS_WORD = "toy"


def other_mascot(pixels: np.ndarray) -> np.ndarray:
    """The second mascot from the first, or the first from the second: (.., H, W, 3) uint8."""
    return np.ascontiguousarray(pixels[..., ::-1, :, ::-1])


def write_second(out: Path) -> Path:
    """Pictures of the second mascot, with the same captions but for the words of the ground."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder("mascot").glob("*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        Image.fromarray(other_mascot(pixels)).save(out / path.name)
        holding = path.with_suffix(".txt").read_text().partition("holding")[1:]
        (out / path.name).with_suffix(".txt").write_text(
            "[trigger]" + (f", {''.join(holding)}" if any(holding) else "")
        )
    return out


def scores_of(judge: Judge, lora: Path | None, seeds: int, reporter: Any) -> dict[str, float]:
    """Shares of pictures in which each mascot is recognised, by the trigger that was in the prompt; nouns."""
    sampler = demo.PromptSampler(demo.embedded_base(), lora)
    figures: dict[str, float] = {}
    for name, trigger in (("first", FIRST), ("second", SECOND)):
        prompts = [f"{trigger}, on a {ground} background" for ground in demo.GROUNDS] * seeds
        images = demo.stack(sampler.sample(prompts, reporter, seed=7000), judge.side)
        figures[f"first mascot, {name} trigger"] = subject_score(judge, images)
        figures[f"second mascot, {name} trigger"] = subject_score(judge, other_mascot(images))
    nouns = demo.test_nouns(judge)
    images = demo.stack(sampler.sample(nouns, reporter, seed=9000), judge.side)
    figures["first mascot, no trigger"] = subject_score(judge, images)
    figures["second mascot, no trigger"] = subject_score(judge, other_mascot(images))
    figures["noun, no trigger"] = style_scores(judge, images, nouns, demo.STYLE)["concept"]
    return figures


def main() -> None:
    """Train both ways, paint, judge, keep."""
    parser = argparse.ArgumentParser(description="Two mascots in one LoRA.")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2, help="pictures for each of ten grounds")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    sets = [
        {"images": folder("mascot"), "trigger": FIRST},
        {"images": write_second(options.out / "second"), "trigger": SECOND},
    ]
    recipe = toml.change(
        preset("subject", demo.BASE, 20),
        {"data.sets": sets, "data.min_side": 16, "sample.every": -1, "train.steps": options.steps},
    )
    teacher = {"prior.kind": "teacher", "prior.class_word": CLASS_WORD}
    columns = {"base": scores_of(judge, None, options.seeds, reporter)}
    seconds = {}
    for name, changes in (("without teacher", {}), ("with teacher", teacher)):
        result = train(toml.change(recipe, changes), options.out / name.replace(" ", "-"), reporter)
        columns[name], seconds[name] = scores_of(judge, result.lora, options.seeds, reporter), result.seconds
    rows = [[key, *(f"{column[key]:.2f}" for column in columns.values())] for key in columns["base"]]
    print(outcome.table(["recognised", *columns], rows))
    facts = {"steps": options.steps, "seeds": options.seeds, "figures": columns, "seconds": seconds}
    outcome.save("two_subjects", facts)


if __name__ == "__main__":
    main()
