"""A folder of 100,000 images: what starting the second time takes, and how memory grows.

    python -m benchmarks.speed.many_images [--images 10000 100000] [--work FOLDER]

Thumbnails of 64 pixels, each with its caption, are trained for one step on the embedded base: once with an
empty cache, then again in another run folder. Told are seconds until the first step has begun, those of the
processor until then, and the peak of the process until its end. The folder has a thousand different captions;
all of its entries are marked as used anew. ``--work`` keeps images and cache: what was stopped goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.outcome import save, table
from PIL import Image

SIDE = 64
"""Pixels."""
PER_FOLDER, CAPTIONS = 1000, 1000
SECONDS, BYTES = 20.0, 1e9
"""What a warm start of the largest folder may take."""


def make(root: Path, count: int) -> None:
    """``count`` pictures with captions, a thousand in a folder; those that are there stay."""
    for number in range(count):
        folder = root / f"{number // PER_FOLDER:03d}"
        path = folder / f"{number:06d}.jpg"
        if path.with_suffix(".txt").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
        path.with_suffix(".txt").write_text(f"a pattern of colours, number {number % CAPTIONS}")


def start(photos: Path, work: Path, name: str) -> dict[str, Any]:
    """Train one step in a process of its own; its seconds until then, and its peak in bytes."""
    # options that leave nothing but the start: no samples, one image measured
    changes = ("data.flip=false", "sample.every=-1", "data.validation_count=1")
    command = [
        sys.executable,
        "-m",
        "limner",
        "train",
        str(photos),
        "--base",
        "glyph",
        "--steps",
        "1",
        "--events",
    ]
    command += ["--out", str(work / name), *(word for change in changes for word in ("--set", change))]
    env = {**os.environ, "LIMNER_CACHE": str(work / "cache"), "XDG_CACHE_HOME": str(work / "home")}
    begin = time.monotonic()
    first_step = processor = 0.0
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            event = json.loads(line)
            if event.get("event") == "step_done" and not first_step:
                first_step = time.monotonic() - begin - event.get("seconds", 0.0)
                processor = _processor(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"limner train ended with {process.returncode}")
    peak = usage.ru_maxrss * 1024
    return {"seconds": round(first_step, 1), "processor": round(processor, 1), "peak": peak}


def _processor(pid: int) -> float:
    """Seconds of the processor that a living process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(work: Path, count: int) -> dict[str, Any]:
    """The first start of a folder of so many images, and the second one."""
    photos = work / f"photos-{count}"
    make(photos, count)
    filled_folder, stamp = work / f"filled-{count}", f"{os.getpid()}-{count}"
    cold = None if filled_folder.exists() else start(photos, work, f"cold-{stamp}")
    filled_folder.touch()
    return {"images": count, "cold": cold, "warm": start(photos, work, f"warm-{stamp}")}


def main() -> None:
    """Measure every size, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[4_000, 20_000, 100_000])
    parser.add_argument("--work", type=Path, help="folder that is kept; left out: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limner-many-") as temporary:
        folders = [measured(args.work or Path(temporary), count) for count in args.images]
    header = ("images", "warm start, s", "of the processor, s", "peak, MB", "cold start, s")
    rows = []
    for folder in folders:
        warm, cold = folder["warm"], folder["cold"]
        figures = (
            warm["seconds"],
            warm["processor"],
            round(warm["peak"] / 1e6),
            cold["seconds"] if cold else "",
        )
        rows.append([str(cell) for cell in (folder["images"], *figures)])
    print(table(header, rows))
    save("many_images", {"folders": folders, "wanted": {"seconds": SECONDS, "peak": BYTES}})


if __name__ == "__main__":
    main()
