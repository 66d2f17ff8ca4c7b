"""What keeps the base as it is, at equal work: class images that it paints, or itself as the teacher.

    python -m benchmarks.quality.priors --seeds 1

The two LoRAs of ``limner demo`` are trained without a prior, with painted class images, with the teacher and
with the blank caption. All get the work of a training without one, in operations of products, convolutions
and attention as torch counts them, whatever else the machine does: a prior that makes steps dearer gets fewer
of them, and the painting and encoding of class images counts. Once it is left out as well, as for a base
whose class images are there from another LoRA. What the file of results holds already is not measured again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from benchmarks.quality.demo_quality import class_images, run
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks import outcome
from limner import demo
from limner.bases.judge import Judge
from limner.planning.planner import plan
from limner.recipe import toml
from limner.reporter import PlainText, Reporter
from limner.runs import train

COUNTED_STEPS = (2, 4)
"""Steps of the two runs whose difference is the work of a step."""
PRIOR_KEYS = {"prior.prompts": (), "prior.batch": 2, "prior.weight": 1.0}
Changes = Mapping[str, Any]
Steps = Mapping[str, int]
PRIORS: Mapping[str, Changes] = {
    "none": {"prior.prompts": ()},
    "class images": {},
    "class images, painted before": {},
    "teacher": {**PRIOR_KEYS, "prior.kind": "teacher"},
    "blank": {**PRIOR_KEYS, "prior.kind": "blank"},
}
"""What differs from the demo's recipe; class images are painted once for all that have them."""
LESSONS = {"style": demo.style_lesson(), "subject": demo.subject_lesson()}
COMMON = {"data.caption_dropout": 0.0}
"""A blank prior keeps the empty caption, which dropped captions would train."""


def _attention(q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _attention_backward(
    grad: torch.Size, q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Of the CPU, which torch's counter does not know."""


def work_of(lesson: demo.DemoRun, changes: Mapping[str, Any], reporter: Any) -> tuple[float, float]:
    """Operations before the first step, and of a step."""
    wholes = []
    for steps in COUNTED_STEPS:
        with tempfile.TemporaryDirectory() as place:
            short = {"train.steps": steps, "train.warmup": 0, "data.cache": Path(place) / "cache"}
            recipe = toml.change(demo.recipe_for(lesson), {**short, **COMMON, **changes})
            plan(recipe, reporter)  # its traces, which are kept, are not counted
            with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
                train(recipe, Path(place) / "run", reporter)
            wholes.append(counter.get_total_flops())
    step = (wholes[1] - wholes[0]) / (COUNTED_STEPS[1] - COUNTED_STEPS[0])
    return wholes[0] - COUNTED_STEPS[0] * step, step


def steps_at_equal_work(lesson: demo.DemoRun, reporter: Any) -> dict[str, dict[str, float]]:
    """Prior -> the steps that it has for the work of the lesson without one, and what they cost.

    A step in units of one without a prior, and what comes before the first likewise, beyond what a training
    without a prior does there.
    """
    whole = demo.recipe_for(lesson).train.steps
    before_none, step_none = work_of(lesson, PRIORS["none"], reporter)
    out: dict[str, dict[str, float]] = {}
    for name, changes in PRIORS.items():
        before, step = work_of(lesson, changes, reporter)
        extra = 0.0 if "before" in name else (before - before_none) / step_none
        ratio = step / step_none
        out[name] = {"steps": max(1, round((whole - extra) / ratio)), "before": extra, "step": ratio}
    return out


def figures_of(
    keys: Changes, steps: Steps, seed: int, judge: Judge, base_sampler: demo.PromptSampler, reporter: Any
) -> dict[str, float]:
    """Both lessons of one seed."""
    figures: dict[str, float] = {}
    for kind, lesson in LESSONS.items():
        changes = {**COMMON, **keys, "train.steps": steps[kind]}
        row = run(lesson, judge, seed, reporter, base_sampler, **changes)
        figures[f"{kind} with trigger"] = row["after"]
        figures[f"{kind} without trigger"] = row["without_trigger"]
        figures[f"{kind}: nouns lost without trigger"] = (
            row["concept_of_base"] - row["concept_without_trigger"]
        )
    return figures


def measured() -> dict[str, Any]:
    """What the file of results holds already."""
    path = outcome.RESULTS / "priors.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"work": record.get("work", {}), "priors": record.get("priors", {})}


def main() -> None:
    """Measure what is not measured yet, print, keep."""
    parser = argparse.ArgumentParser(description="What keeps the base as it is, at equal work.")
    parser.add_argument("--seeds", type=int, default=1, help="0 prints what was measured")
    options = parser.parse_args()
    judge, reporter = Judge.load(), Reporter(PlainText(sys.stderr))
    for kind, lesson in LESSONS.items():
        record = measured()
        if kind not in record["work"]:
            record["work"][kind] = steps_at_equal_work(lesson, reporter)
            outcome.save("priors", record)
    base_sampler = demo.PromptSampler(demo.embedded_base())
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as place:
            images = class_images(seed, Path(place), reporter)
            for name, changes in PRIORS.items():
                record = measured()
                rows = record["priors"].setdefault(name, [])
                if len(rows) == seed:
                    keys = changes or images
                    steps = {kind: work[name]["steps"] for kind, work in record["work"].items()}
                    rows.append(figures_of(keys, steps, seed, judge, base_sampler, reporter))
                    outcome.save("priors", record)
    sys.stdout.write(table_of(measured()) + "\n")


def table_of(record: dict[str, Any]) -> str:
    """The table of the guide, in docs/guide/data.md; what is not measured yet is left empty."""
    works = [
        [f"{kind}: {key}", *(f"{work[name][key]:{form}}" for name in PRIORS)]
        for kind, work in record["work"].items()
        for key, form in (("before", ".1f"), ("step", ".2f"), ("steps", ".0f"))
    ]
    seeds = record["priors"]
    rows = [
        [key, *(f"{mean(row[key] for row in seeds[name]):.0%}" if seeds.get(name) else "" for name in PRIORS)]
        for key in seeds["none"][0]
    ]
    return outcome.table(["", *PRIORS], works + rows)


if __name__ == "__main__":
    main()
