"""LoRA, LoHa, LoKr and DoRA at as many trained numbers: what each learns of the demo's lessons, how fast.

    python -m benchmarks.quality.adapter_kinds --seeds 2

Each kind gets the size whose trained numbers are nearest to those of a LoRA of rank 16. The lessons, their
steps and rates are those of ``limner demo``; a judge that learned from real art says what was learned. The
time of a step is measured apart, in turn with a LoRA's, so that what else the machine does weighs on both.
What the file of results holds already is not measured again: seeds of a kind, and the time of its step.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from math import log
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.quality.demo_quality import class_images, run

from benchmarks import outcome
from limner import demo
from limner.assembly.assemble import ModelSpec
from limner.assembly.base import family_at
from limner.assembly.trainable import LoRA
from limner.bases.judge import Judge
from limner.lora.location import locate_base
from limner.planning.targets import target_groups
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.recipe.train import Lora
from limner.reporter import PlainText, Reporter
from limner.run_folder import RunDir
from limner.runs import train

RANK = 16
KINDS = ("lora", "loha", "lokr", "dora")
TIMED_STEPS, ROUNDS = 20, 2
"""Steps of a run whose steps are timed, and how often the kinds take their turn."""
Changes = Mapping[str, Any]


def sizes(kind: str) -> Iterator[Changes]:
    """Keys of [lora] that a kind may be given."""
    if kind == "lokr":
        for factor in (2, 3, 4, 6, 8, 12, 16):
            yield {"kind": kind, "factor": factor, "full_matrix": True}
        for factor in (2, 4):
            for rank in range(8, 4 * RANK, 4):
                yield {"kind": kind, "factor": factor, "rank": rank}
    for rank in range(1, 3 * RANK):
        yield {"kind": kind, "rank": rank}


def numbers(changes: Changes) -> int:
    """What is trained of the embedded base's denoiser."""
    source = locate_base(demo.BASE)
    spec = ModelSpec(family=family_at(source), source=source, trainable=LoRA(Lora(**changes)), compute="fp32")
    return sum(group.trained for group in target_groups(spec))


def nearest(kind: str, target: int) -> tuple[Changes, int]:
    """The size of a kind whose trained numbers are nearest to those wanted, and how many they are."""
    candidates = [(changes, numbers(changes)) for changes in sizes(kind)]
    return min(candidates, key=lambda entry: abs(log(entry[1] / target)))


def recipe_keys(changes: Changes) -> dict[str, Any]:
    """The recipe's keys for a size, by dotted path."""
    keys: dict[str, Any] = {f"lora.{name}": value for name, value in changes.items()}
    if changes["kind"] in ("loha", "lokr"):
        keys["export.for"] = ("comfyui",)
    return keys


def step_seconds(kinds: Mapping[str, Changes], reporter: Any) -> dict[str, float]:
    """The median time of a step of each kind, measured in turn; the first steps of a run do not count."""
    short = {"train.steps": TIMED_STEPS, "train.warmup": 0, "prior.prompts": (), "sample.every": -1}
    recipe: Recipe = toml.change(demo.recipe_for(demo.subject_lesson()), short)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, changes in kinds.items():
            with tempfile.TemporaryDirectory() as place:
                train(toml.change(recipe, recipe_keys(changes)), Path(place), reporter)
                rows = [row["seconds"] for row in RunDir(Path(place)).metrics() if "loss" in row]
            seconds[kind] += rows[5:]
    return {kind: median(times) for kind, times in seconds.items()}


def figures_of(
    keys: Changes, seed: int, judge: Judge, base_sampler: demo.PromptSampler, reporter: Any
) -> dict[str, float]:
    """Both lessons of one seed."""
    style, subject = (
        run(lesson, judge, seed, reporter, base_sampler, **keys)
        for lesson in (demo.style_lesson(), demo.subject_lesson())
    )
    return {
        "style": style["after"],
        "style without trigger": style["without_trigger"],
        "noun": style["concept_with_trigger"],
        "subject": subject["after"],
        "subject without trigger": subject["without_trigger"],
    }


def measured() -> dict[str, dict[str, Any]]:
    """The kinds that the file of results holds already."""
    path = outcome.RESULTS / "adapter_kinds.json"
    return json.loads(path.read_text(encoding="utf-8"))["kinds"] if path.exists() else {}


def sized(reporter: Any) -> dict[str, dict[str, Any]]:
    """Kind -> its size, the time of its step beside a LoRA's, and its seeds, of which there are none yet."""
    target = numbers({"kind": "lora", "rank": RANK})
    sizes = {kind: nearest(kind, target) for kind in KINDS}
    times = step_seconds({kind: changes for kind, (changes, _) in sizes.items()}, reporter)
    return {
        kind: {
            "lora": dict(changes),
            "trained": count,
            "bytes": 4 * count,
            "step": times[kind] / times["lora"],
            "seeds": [],
        }
        for kind, (changes, count) in sizes.items()
    }


def row_of(kind: str, row: Mapping[str, Any]) -> list[str]:
    """A row of the table: means over the seeds."""
    size = ", ".join(f"{key} {value}" for key, value in row["lora"].items() if key != "kind")
    shares = {name: mean(seed_row[name] for seed_row in row["seeds"]) for name in row["seeds"][0]}
    return [
        f"{kind}, {size}",
        str(row["trained"]),
        str(row["bytes"]),
        f"{row['step']:.2f}",
        *(f"{share:.0%}" for share in shares.values()),
    ]


def main() -> None:
    """Measure what is not measured yet, print, keep."""
    parser = argparse.ArgumentParser(description="What each kind of adapter learns at equal bytes.")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    base_sampler = demo.PromptSampler(demo.embedded_base())
    if not measured():
        outcome.save("adapter_kinds", {"kinds": sized(reporter)})
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as place:
            images = class_images(seed, Path(place), reporter)
            for kind in KINDS:
                kinds = measured()
                if len(kinds[kind]["seeds"]) == seed:
                    keys = {**recipe_keys(kinds[kind]["lora"]), **images}
                    kinds[kind]["seeds"].append(figures_of(keys, seed, judge, base_sampler, reporter))
                    outcome.save("adapter_kinds", {"kinds": kinds})
    header = ["kind", "trained", "bytes", "step", "style", "without trigger", "noun", "subject"]
    header.append("without trigger")
    table = [row_of(kind, row) for kind, row in measured().items()]
    sys.stdout.write(outcome.table(header, table) + "\n")


if __name__ == "__main__":
    main()
