"""Does the allocator keep more than is planned? True bases traced whole, replayed, beside the reserve.

    python -m benchmarks.memory.reserve [--bases flux-dev z-image ..] [--side 1024] [--out FOLDER]

Every block of each base is traced on the meta device, with none, half, three quarters and all of them
checkpointed; births and deaths go through the model of the caching allocator, with segments that grow and
with those that cannot (Windows, WSL, Jetson, ROCm). Tensors only: no context, no workspace of cuBLAS.
"""

import argparse
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.memory.allocator import replay
from benchmarks.memory.plan_memory import adapted
from benchmarks.outcome import RESULTS, save, table

from limner.models.bundled import known
from limner.models.loading import hush
from limner.models.registry import family_of
from limner.nn.memory.plan import Plan
from limner.planning import memory
from limner.planning.dry_run import DryRun, TraceSpec
from limner.planning.meta_inputs import boundary
from limner.planning.profiling import profile

BASES = ("flux-dev", "z-image", "qwen-image", "krea2", "flux2-klein-4b", "sdxl", "sd35-medium")
GIB = 2**30


def rows_of(base: str, side: int) -> list[dict[str, Any]]:
    """Bytes that are planned and replayed, for four numbers of checkpointed blocks."""
    source = known(base)
    family = family_of(source.index["_class_name"])
    spec, trace_spec = (
        adapted(family, source, "bf16", rank=16, targets="all-linear"),
        TraceSpec(size=(side, side)),
    )
    cost_profile, run = profile(spec, trace_spec), DryRun(spec, trace_spec)
    inputs, count = boundary(spec, (side, side)), len(run.blocks)
    rows = []
    for checkpoint_count in (0, count // 2, count * 3 // 4, count):
        state = 8 * cost_profile.learning
        events = run.trace(inputs, 1, checkpointed_blocks=checkpoint_count, state=state).trace.events
        row: dict[str, Any] = {"base": base, "side": side, "checkpointed": f"{checkpoint_count}/{count}"}
        plan = Plan(compute="bf16", weights="bf16", checkpointed_blocks=checkpoint_count, tail_skip=False)
        for name, grows in (("growing", True), ("fixed", False)):
            with patch.object(memory, "expandable", lambda grows=grows: grows):
                estimate = memory.train_memory(cost_profile, plan)
            overhead = estimate.causes["context"] + estimate.causes["workspace"]
            prediction = (estimate.reserved - overhead) / GIB
            replay_size = replay(events, expandable=grows).reserved / GIB
            row[name] = {
                "planned": round(prediction, 2),
                "replayed": round(replay_size, 2),
                "ratio": round(prediction / replay_size, 4),
            }
        rows.append(row)
    return rows


def main() -> None:
    """Compare, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", nargs="*", default=list(BASES))
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    hush()
    rows = [row for base in options.bases for row in rows_of(base, options.side)]
    cells = [
        [row["base"], row["checkpointed"]]
        + [f"{row[name][key]}" for name in ("growing", "fixed") for key in ("planned", "replayed", "ratio")]
        for row in rows
    ]
    print(
        table(["base", "checkpointed", "growing", "replayed", "ratio", "fixed", "replayed", "ratio"], cells)
    )
    save("reserve", {"rows": rows}, options.out)


if __name__ == "__main__":
    main()
