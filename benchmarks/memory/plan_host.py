"""Is the computer's own memory predicted? What stays on the host, phase by phase, as planned and as taken.

    python -m benchmarks.memory.plan_host [--width 1024] [--out FILE.json]

A FLUX of 170 million random numbers is read as a plan says, each case in a process of its own, with torch's
meta device in the place of a GPU: what goes there is gone, so what the process takes beside it is what the
plan calls the host's. Measured is anonymous memory (RssAnon, sampled every millisecond), which is what
``planning.host`` counts: pages of mapped files are the system's to take back. Locking needs a GPU; what
would be locked is ordinary memory here. A checkpoint is of tensors that have to be copied, as a GPU's are.
Not measured: encoders and pictures while the cache is filled, and the autoencoder that paints. Linux only.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.outcome import RESULTS, save, table

from limner.nn.memory.plan import Plan

MIB = 2**20
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "all on the device": ("bf16", {}),
    "streamed": ("bf16", {"swapped_blocks": 99}),
    "streamed and hoisted": ("bf16", {"swapped_blocks": 99, "precompute_modulation": True}),
    "streamed, cast": ("fp32", {"swapped_blocks": 99}),
    "hoisted, cast": ("fp32", {"precompute_modulation": True}),
    "streamed in int8": ("bf16", {"swapped_blocks": 99, "weights": "int8"}),
    "streamed in NF4": ("bf16", {"swapped_blocks": 99, "weights": "nf4"}),
    "half streamed": ("bf16", {"swapped_blocks": 4}),
    "mapped": ("bf16", {"swapped_blocks": 99, "mmap_weights": True}),
    "mapped in int8, cast": ("fp32", {"swapped_blocks": 99, "weights": "int8", "mmap_weights": True}),
    "mapped and hoisted, cast": (
        "fp32",
        {"swapped_blocks": 99, "precompute_modulation": True, "mmap_weights": True},
    ),
}
"""What it is -> precision of the files, and what of the plan is not plain."""


def base(folder: Path, precision: str, width: int) -> Path:
    """A tiny FLUX whose denoiser is wide."""
    import torch
    from diffusers import FluxTransformer2DModel

    from tiny import save_flux

    root = save_flux(folder / precision)
    torch.manual_seed(0)
    config = FluxTransformer2DModel.load_config(root / "transformer")
    wide = {"num_layers": 2, "num_single_layers": 6, "num_attention_heads": width // 128}
    wide |= {"attention_head_dim": 128, "axes_dims_rope": (32, 48, 48)}
    denoiser = FluxTransformer2DModel.from_config({**config, **wide})
    denoiser.to(torch.bfloat16 if precision == "bf16" else torch.float32).save_pretrained(
        root / "transformer"
    )
    return root


def resident() -> int:
    """Bytes of memory of this process that are no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This system does not say RssAnon.")


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """What :func:`resident` says at most while entered."""
    peak_reader, over = [resident()], threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            peak_reader[0] = max(peak_reader[0], resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: peak_reader[0]
    finally:
        peak_reader[0] = max(peak_reader[0], resident())
        over.set()
        watcher.join()


def case(root: str, folder: str, changes: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Read the denoiser as a plan says, then write a checkpoint: phase -> bytes predicted and measured."""
    import torch

    from limner.assembly.assemble import ModelSpec
    from limner.assembly.trainable import LoRA
    from limner.models.loading import load
    from limner.models.registry import family_of
    from limner.models.source import locate
    from limner.nn.arch import frozen, matching
    from limner.nn.memory.host_buffer import HostBuffer, Mapped, ordinary
    from limner.planning.dry_run import TraceSpec
    from limner.planning.host import LIBRARIES, host_memory_of
    from limner.planning.memory import saved_bytes
    from limner.planning.profiling import profile
    from limner.training import checkpoint

    torch.set_num_threads(1)
    family, source = family_of("FluxPipeline"), locate(root, folders={})
    spec = ModelSpec(family=family, source=source, trainable=LoRA())
    cost_profile = profile(spec, TraceSpec(size=(64, 64)))
    cost_profile, blocks = replace(cost_profile, cast="fp32" in Path(root).name), len(cost_profile.blocks)
    plan = replace(Plan(compute="bf16", weights="bf16"), **changes)
    plan = replace(plan, swapped_blocks=min(plan.swapped_blocks, blocks))
    host_memory = host_memory_of(cost_profile, plan)
    swaps, meta = plan.swapped_of(blocks), torch.device("meta")
    place = Path(folder) if plan.mmap_weights else None

    before = resident()
    with peak() as peak_reader:
        args: dict[str, Any] = {"device": meta, "folder": place}
        denoiser = load(family, source, "transformer", dtype=torch.bfloat16, plan=plan, **args)
        host = Mapped(place) if plan.mmap_weights else ordinary
        layers = [frozen(excess) for excess in matching(denoiser, family.arch.modulations).values()]
        modulations = layers if plan.precompute_modulation else []
        buffers = [HostBuffer(layer, host) for layer in modulations]
        blocks_list = list(family.arch.blocks_of(denoiser).values())
        buffers += [HostBuffer(blocks_list[number], host, exclude=modulations) for number in swaps]
    loading, increase = peak_reader() - before, resident() - before
    state = {
        "weights": [torch.ones(saved_bytes(cost_profile, plan, "adamw", average=False) // 4 // 64, 64).t()]
    }
    start = resident()
    with peak() as peak_reader, tempfile.TemporaryDirectory() as scratch:
        checkpoint.save(Path(scratch) / "step-000001.safetensors", state, {"step": 1})
    saving = peak_reader() - start
    staging = (
        host_memory["train"].pinned if plan.mmap_weights else 0
    )  # copies pass through it, on the way to a GPU
    return {
        "load": {"predicted": host_memory["load"].total - LIBRARIES, "measured": loading},
        "train": {"predicted": host_memory["train"].total - LIBRARIES - staging, "measured": increase},
        "save": {"predicted": host_memory["save"].total - host_memory["train"].total, "measured": saving},
    }


def _in_child(job: tuple[str, str, dict[str, Any]], answer: Any) -> None:
    answer.put(case(*job))


def libraries() -> int:
    """Bytes of a process that has imported everything and built a model."""
    code = (
        "import torch, diffusers, transformers, peft\nfrom limner.training import samples, train\n"
        "from limner.models.registry import family_of\nfrom limner.models.loading import skeleton\n"
        "from limner.models.bundled import known\n"
        "[skeleton(family_of('FluxPipeline'), known('flux-dev'), part, dtype=torch.bfloat16)"
        " for part in ('transformer', 'text_encoder', 'text_encoder_2', 'vae')]\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmRSS')))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(process.stdout.split()[-1]) * 1024


def main() -> None:
    """Every case, a table, a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=1024, help="of the denoiser")
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="by name")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_host.json")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    fresh = multiprocessing.get_context("spawn")
    rows_by_name: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        roots = {kind: base(Path(home), kind, options.width) for kind in ("bf16", "fp32")}
        for name in options.cases:
            kind, changes = CASES[name]
            answer = fresh.Queue()
            child = fresh.Process(target=_in_child, args=((str(roots[kind]), home, changes), answer))
            child.start()
            rows_by_name[name] = answer.get(timeout=300)
            child.join()
            print(json.dumps({name: rows_by_name[name]}), file=sys.stderr, flush=True)
    phases = ("load", "train", "save")
    rows = [
        [
            name,
            *(f"{row[phase][column] / MIB:.0f}" for phase in phases for column in ("predicted", "measured")),
        ]
        for name, row in rows_by_name.items()
    ]
    print(table(["MiB", *(f"{phase}, {column}" for phase in phases for column in ("plan", "run"))], rows))
    over = {
        phase: max(row[phase]["measured"] - row[phase]["predicted"] for row in rows_by_name.values())
        for phase in phases
    }
    print("most above the plan:", {phase: f"{excess / MIB:.0f} MiB" for phase, excess in over.items()})
    facts = {"above_plan_bytes": over, "libraries_bytes": libraries(), "cases": rows_by_name}
    save(options.out.stem, facts, options.out.parent)


if __name__ == "__main__":
    main()
