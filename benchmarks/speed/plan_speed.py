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

WANTED = {"cold": 10.0, "kept": 2.0}
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
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        for number in range(10):
            Image.new("RGB", (1024, 1024), (number * 20, 90, 120)).save(photos / f"{number}.png")
            (photos / f"{number}.txt").write_text(f"sks cat, picture {number}")
        for base in given.bases:
            home = Path(place) / base
            found[base] = {when: planned(base, photos, home) for when in WANTED}
            print(json.dumps({base: found[base]}), file=sys.stderr, flush=True)
    rows = [
        [base, *(f"{found[base][when][key]:.1f}" for when in WANTED for key in ("seconds", "cpu_seconds"))]
        for base in found
    ]
    print(table(["base", "cold, s", "CPU", "kept, s", "CPU"], rows))
    worst = {when: max(found[base][when]["seconds"] for base in found) for when in WANTED}
    for when, bar in WANTED.items():
        print(f"{when}: worst {worst[when]:.1f} s, wanted {bar:.0f}")
    save(given.out.stem, {"wanted": WANTED, "worst": worst, "bases": found}, given.out.parent)


if __name__ == "__main__":
    main()
