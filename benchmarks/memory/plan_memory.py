"""Is the memory of a training step predicted? Against true steps of small bases, and traces of true ones.

    python -m benchmarks.memory.plan_memory [--sizes 128 256] [--bases flux-dev sdxl ..] [--whole]
                                               [--out FILE.json]

Small bases (the tests' own, with weights) run their second AdamW step on the CPU, CUDA's kernels imitated,
and torch's profiler tells every allocation. True bases have no weights here: their table says what the
arithmetic on short rehearsals gives, and, with ``--whole``, what a trace of every block gives, replayed
through the model of the caching allocator. Tensors only: no context, no workspace of cuBLAS.

In bf16 a processor's products of matrices (oneDNN) take memory of their own and give it back: 132 kB at most
forward, more for gradients of wide layers, and otherwise on other processors. No plan counts it: rows are
against what was measured without, ``scratch`` says how much it was, ``with_scratch_off`` counts it in.
Weights in 8 bits are left out there: a processor multiplies bf16 by scales in fp32 in a copy of the weight in
fp32, which a GPU does not make. NF4 is turned back by torch's own kernels here: see ``Profile.decoding``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.memory.allocator import replay
from benchmarks.outcome import RESULTS, save

from limner.assembly.assemble import ModelSpec
from limner.assembly.trainable import LoRA
from limner.models.bundled import known
from limner.models.loading import hush
from limner.models.registry import family_of
from limner.models.source import locate
from limner.nn.memory.plan import Compute, Plan, Weights
from limner.planning.dry_run import DryRun, TraceSpec
from limner.planning.memory import train_memory
from limner.planning.meta_inputs import boundary
from limner.planning.profiling import profile
from limner.planning.trace import Machine
from limner.recipe.train import Lora

GIB = 2**30
SMALL = ("flux-dev", "sdxl", "qwen-image", "flux2-klein", "z-image", "sd15")
TRUE = ("flux-dev", "sdxl", "qwen-image", "flux2-klein-4b", "z-image", "sd15")
PUBLICATIONS = {
    ("flux-dev", 512): (28.825, 25.811, 23.170),
    ("flux-dev", 1024): (41.446, 32.473, 24.582),
    ("sdxl", 512): (6.415, None, 5.180),
    ("sdxl", 1024): (10.356, None, 5.540),
    ("qwen-image", 512): (47.738, None, 39.328),
    ("qwen-image", 1024): (65.872, None, 40.830),
}
"""GiB of an independent trace of every block (LoRA of rank 16 on the attention, bf16 cast once, AdamW, 512
tokens of text, one image): no, half and every block checkpointed."""


def small(sizes: list[int], compute: Compute) -> Iterator[dict[str, Any]]:
    """True steps beside predictions."""
    half = compute == "bf16"
    stores: tuple[Weights, ...] = ("bf16",) if half else ("fp32", "int8", "fp8", "nf4")
    from cases import CASES
    from measured import Real

    for case in (small_case for small_case in CASES if small_case.name in SMALL):
        folder = Path(tempfile.mkdtemp()) / case.name
        family, source = family_of(case.pipeline), locate(str(case.save(folder)), folders={})
        for side in sizes:
            spec = adapted(family, source, compute, rank=4)
            trace_spec = TraceSpec(size=(side, side))
            estimate = profile(spec, trace_spec, machine=Machine(granule=1))
            blocks = len(estimate.blocks)
            for weights in stores:
                real = Real(spec, trace_spec, weights)
                rehearsal = DryRun(spec, replace(trace_spec, weights=weights), Machine(granule=1))
                for images, count in ((1, 0), (1, blocks // 2), (1, blocks), (2, blocks // 2)):
                    measurement = real.peak(images, count, scratch=not half)
                    plan = Plan(
                        compute=compute, weights=weights, checkpointed_blocks=count, micro_batch=images
                    )
                    state = 8 * estimate.learning + 4 * estimate.tensors
                    trace = rehearsal.trace(real.one, images, checkpointed_blocks=count, state=state)
                    row: dict[str, Any] = {
                        "base": case.name,
                        "side": side,
                        "weights": weights,
                        "images": images,
                        "checkpointed": f"{count}/{blocks}",
                        "measured": measurement,
                        "traced_off": trace.trace.peak / measurement - 1,
                        "predicted_off": train_memory(estimate, plan, device_kind="cpu").total / measurement
                        - 1,
                    }
                    if half:
                        whole = real.peak(images, count)
                        row["scratch"] = whole - measurement
                        row["with_scratch_off"] = trace.trace.peak / whole - 1
                    yield row


def true(names: list[str], sides: list[int], *, whole: bool) -> Iterator[dict[str, Any]]:
    """Bases of true size."""
    for name in names:
        source = known(name)
        family = family_of(source.index["_class_name"])
        for side in sides:
            spec, trace_spec = (
                adapted(family, source, "bf16", targets="attention"),
                TraceSpec(size=(side, side)),
            )
            start = time.process_time()
            estimate = profile(spec, trace_spec)
            seconds = time.process_time() - start
            blocks = len(estimate.blocks)
            for place, count in enumerate((0, -(-blocks // 2), blocks)):
                plan = Plan(compute="bf16", weights="bf16", checkpointed_blocks=count)
                need = train_memory(estimate, plan)
                overhead = need.causes["context"] + need.causes["workspace"]
                row: dict[str, Any] = {
                    "base": name,
                    "side": side,
                    "checkpointed": f"{count}/{blocks}",
                    "predicted": round((need.total - overhead) / GIB, 3),
                    "reserved": round((need.reserved - overhead) / GIB, 3),
                    "profile_cpu_seconds": round(seconds, 1),
                }
                if publication := PUBLICATIONS.get((name, side), (None,) * 3)[place]:
                    row |= {"specified": publication, "off": row["predicted"] / publication - 1}
                if whole:
                    row |= _whole(spec, trace_spec, count, estimate.learning)
                yield row


def adapted(family: Any, source: Any, compute: Compute, **lora: Any) -> ModelSpec:
    """A base with a LoRA on its denoiser."""
    return ModelSpec(family=family, source=source, trainable=LoRA(Lora(**lora)), compute=compute)


def _whole(spec: ModelSpec, trace_spec: TraceSpec, count: int, trained: int) -> dict[str, Any]:
    """A trace of every block, and what the allocator reserves for it."""
    segment = boundary(spec, trace_spec.size)
    start = time.process_time()
    rehearsal = DryRun(spec, trace_spec)
    trace = rehearsal.trace(segment, 1, checkpointed_blocks=count, state=8 * trained).trace
    return {
        "whole": round(trace.peak / GIB, 3),
        "whole_cpu_seconds": round(time.process_time() - start, 1),
        "whole_reserved": round(replay(trace.events).reserved / GIB, 3),
        "whole_reserved_expandable": round(replay(trace.events, expandable=True).reserved / GIB, 3),
    }


def main() -> None:
    """Print a row for each case and write them all."""
    options = _asked()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    hush()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    tables = {
        "small": small(options.sizes, "fp32"),
        "small_bf16": small(options.sizes, "bf16"),
        "true": true(options.bases, options.sides, whole=options.whole),
    }
    for table, cases in tables.items():
        rows[table] = []
        for row in cases:
            rows[table].append(row)
            print(
                "  ".join(
                    f"{key} {value:+.3%}" if "off" in key else f"{key} {value}" for key, value in row.items()
                )
            )
    worst = {
        key: max(
            (abs(row[key]) for small_case in rows.values() for row in small_case if key in row), default=0.0
        )
        for key in ("traced_off", "predicted_off", "off")
    }
    print("worst:", "  ".join(f"{key} {value:.3%}" for key, value in worst.items()))
    save(options.out.stem, {"worst": worst, **rows}, options.out.parent)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[128, 256], help="pixels of small bases' images"
    )
    parser.add_argument("--bases", nargs="*", default=list(TRUE), help="true bases")
    parser.add_argument("--sides", type=int, nargs="*", default=[512, 1024], help="pixels of their images")
    parser.add_argument("--whole", action="store_true", help="trace every block as well")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_memory.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
