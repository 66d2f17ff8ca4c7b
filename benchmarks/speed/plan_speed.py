"""How long `limner plan` takes for every base that has a name: the first time, and once its traces are kept.

    python -m benchmarks.speed.plan_speed [--bases sdxl ..] [--out FILE.json]

Whole processes, imports included, with a cache of their own; nothing is downloaded.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.outcome import RESULTS, save, table
from PIL import Image

from limner.models.registry import hub_bases

LIMIT = {"cold": 10.0, "kept": 2.0}
"""Seconds on two cores."""


def planned(base: str, photos: Path, home: Path) -> dict[str, float]:
    """Seconds and seconds of the processor of one command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "limner", "plan", str(photos), "--base", base, "--vram", "24GB"]
    subprocess.run(
        [*command, "--json", "--trigger", "sks"],
        env=os.environ | {"XDG_CACHE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        check=False,  # 1 says that nothing fits
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu_seconds": used}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", nargs="*", default=list(hub_bases()))
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_speed.json")
    options = parser.parse_args()
    timings = {}
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        for number in range(10):
            Image.new("RGB", (1024, 1024), (number * 20, 90, 120)).save(photos / f"{number}.png")
            (photos / f"{number}.txt").write_text(f"sks cat, picture {number}")
        for base in options.bases:
            home = Path(place) / base
            timings[base] = {moment: planned(base, photos, home) for moment in LIMIT}
            print(json.dumps({base: timings[base]}), file=sys.stderr, flush=True)
    rows = [
        [
            base,
            *(f"{timings[base][moment][key]:.1f}" for moment in LIMIT for key in ("seconds", "cpu_seconds")),
        ]
        for base in timings
    ]
    print(table(["base", "cold, s", "CPU", "kept, s", "CPU"], rows))
    worst = {moment: max(timings[base][moment]["seconds"] for base in timings) for moment in LIMIT}
    for moment, bar in LIMIT.items():
        print(f"{moment}: worst {worst[moment]:.1f} s, wanted {bar:.0f}")
    save(options.out.stem, {"wanted": LIMIT, "worst": worst, "bases": timings}, options.out.parent)


if __name__ == "__main__":
    main()
