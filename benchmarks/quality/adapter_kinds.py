"""LoRA, LoHa, LoKr and DoRA at as many trained numbers: what each learns of the demo's lessons, how fast.

    python -m benchmarks.quality.adapter_kinds --seeds 3

Each kind gets the size whose trained numbers are nearest to those of a LoRA of rank 16. The lessons, their
steps and rates are those of ``limner demo``; a judge that learned from real art says what was learned.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from math import log
from statistics import mean
from typing import Any

from benchmarks.quality.demo_quality import run

from benchmarks import outcome
from limner import demo
from limner.assembly.assemble import ModelSpec
from limner.assembly.base import family_at, locate_base
from limner.assembly.trainable import LoRA
from limner.bases.judge import Judge
from limner.planning.targets import target_groups
from limner.recipe.train import Lora
from limner.reporter import PlainText, Reporter

RANK = 16
Changes = Mapping[str, Any]


def sizes(kind: str) -> Iterator[Changes]:
    """Keys of [lora] that a kind may be given."""
    if kind == "lokr":
        for factor in (2, 3, 4, 6, 8, 12, 16):
            yield {"kind": kind, "factor": factor, "full_matrix": True}
    for rank in range(1, 3 * RANK):
        yield {"kind": kind, "rank": rank}


def numbers(changes: Changes) -> int:
    """What is trained of the embedded base's denoiser."""
    source = locate_base(demo.BASE)
    spec = ModelSpec(family=family_at(source), source=source, trainable=LoRA(Lora(**changes)), compute="fp32")
    return sum(group.trained for group in target_groups(spec))


def nearest(kind: str, wanted: int) -> tuple[Changes, int]:
    """The size of a kind whose trained numbers are nearest to those wanted, and how many they are."""
    candidates = [(changes, numbers(changes)) for changes in sizes(kind)]
    return min(candidates, key=lambda entry: abs(log(entry[1] / wanted)))


def figures_of(changes: Changes, seeds: int, judge: Judge, reporter: Any) -> dict[str, float]:
    """Means over seeds of both lessons."""
    keys: dict[str, Any] = {f"lora.{name}": value for name, value in changes.items()}
    if changes["kind"] in ("loha", "lokr"):
        keys["export.for"] = ("comfyui",)
    styles, subjects = (
        [run(lesson, judge, seed, reporter, **keys) for seed in range(seeds)]
        for lesson in (demo.style_lesson(), demo.subject_lesson())
    )
    return {
        "style": mean(row["after"] for row in styles),
        "style without trigger": mean(row["without_trigger"] for row in styles),
        "noun": mean(row["concept_with_trigger"] for row in styles),
        "subject": mean(row["after"] for row in subjects),
        "seconds": mean(row["seconds"] for row in (*styles, *subjects)),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description="What each kind of adapter learns at equal bytes.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["lora", "loha", "lokr", "dora"])
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    wanted = numbers({"kind": "lora", "rank": RANK})
    results: dict[str, dict[str, Any]] = {}
    for kind in options.kinds:
        changes, count = nearest(kind, wanted)
        reporter.line(f"{kind}: {dict(changes)}, {count} trained numbers")
        figures = figures_of(changes, options.seeds, judge, reporter)
        results[kind] = {"lora": dict(changes), "trained": count, "bytes": 4 * count, **figures}
        outcome.save("adapter_kinds", {"seeds": options.seeds, "kinds": results})
    header = ["kind", "trained", "style", "without trigger", "noun", "subject", "seconds"]
    rows = [
        [
            kind,
            str(row["trained"]),
            *(f"{row[name]:.0%}" for name in ("style", "style without trigger", "noun", "subject")),
            f"{row['seconds']:.0f}",
        ]
        for kind, row in results.items()
    ]
    sys.stdout.write(outcome.table(header, rows) + "\n")


if __name__ == "__main__":
    main()
