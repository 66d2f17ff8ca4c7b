"""One setting of [train], [data], [lora] or [limits] at a time: what the embedded base learns by it.

    python -m benchmarks.quality.settings --out FOLDER

The style of ``limner demo``, without its prior, and the same with one setting changed. Each LoRA is asked for
nouns that it was not taught with; the judge says how many pictures are in the style and how many show their
noun. A run that is in the folder is not trained again, and what the file of results holds already is not
measured again.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import outcome
from limner import demo
from limner.bases.judge import Judge, stack, style_scores
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter
from limner.run_folder import RunDir
from limner.runs import train

PLAIN = "as it is"
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "train.noise_range = [0.3, 1.0]": {"train.noise_range": (0.3, 1.0)},
    "train.noise_range = [0.0, 0.7]": {"train.noise_range": (0.0, 0.7)},
    'train.loss = "huber"': {"train.loss": "huber"},
    'train.loss = "l1"': {"train.loss": "l1"},
    'train.time_density = "style"': {"train.time_density": "style"},
    'train.time_density = "content"': {"train.time_density": "content"},
    "data.resolution = [32, 64]": {"data.resolution": (32, 64)},
    'lora.targets = ["attention"]': {"lora.targets": ("attention",)},
    'train.optimizer = "torch.optim.NAdam"': {"train.optimizer": "torch.optim.NAdam"},
    'train.schedule = "warmup_stable_decay"': {"train.schedule": "warmup_stable_decay"},
    'train.schedule = "cosine_with_restarts", two': {
        "train.schedule": "cosine_with_restarts",
        "train.schedule_cycles": 2,
    },
    "train.init = that LoRA, as many steps again": {"train.init": PLAIN},
    'limits.compute_dtype = "fp16"': {"limits.compute_dtype": "fp16"},
}


def recipe_of(keys: Mapping[str, Any], steps: int, out: Path) -> Recipe:
    """The demo's style with other keys; an initial LoRA is that of the plain run."""
    lesson = {"prior.prompts": (), "train.steps": steps, "train.save_every": 10_000}
    starts = {"train.init": str(RunDir(out / PLAIN).lora_path)} if "train.init" in keys else {}
    return toml.change(demo.recipe_for(demo.style_lesson()), {**lesson, **keys, **starts})


def scores_of(lora: Path, judge: Judge, reporter: Reporter) -> dict[str, float]:
    """Shares of the pictures with the trigger."""
    nouns = demo.test_nouns(judge)
    prompts = [demo.style_lesson().prompt_of(noun) for noun in nouns]
    images = demo.PromptSampler(demo.embedded_base(), lora).sample(prompts, reporter, seed=7000)
    return style_scores(judge, stack(images, judge.side), nouns, demo.STYLE)


def measured(steps: int) -> dict[str, Any]:
    """What the file of results holds already, of as many steps."""
    path = outcome.RESULTS / "settings.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record["settings"] if record.get("steps") == steps else {}


def main() -> None:
    """Train, generate, judge, keep."""
    parser = argparse.ArgumentParser(description="What single settings change on the embedded base.")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    rows = measured(options.steps)
    for name, keys in SETTINGS.items():
        if name in rows:
            continue
        folder = PLAIN if name == PLAIN else f"setting-{list(SETTINGS).index(name)}"
        lora = train(recipe_of(keys, options.steps, options.out), options.out / folder, reporter).lora
        assert lora is not None
        rows[name] = scores_of(lora, judge, reporter)
        outcome.save(
            "settings", {"steps": options.steps, "nouns": len(demo.test_nouns(judge)), "settings": rows}
        )
    table = [[name, f"{row['style']:.0%}", f"{row['concept']:.0%}"] for name, row in rows.items()]
    sys.stdout.write(outcome.table(["setting", "style", "right noun in it"], table) + "\n")


if __name__ == "__main__":
    main()
