"""Memory of ``limner check`` on a large folder: the peak of the process, and how much each image adds.

    python -m benchmarks.memory.check_memory [--images 20000] [--side 320]

Pictures with captions are made in a temporary folder, and checked in a process of their own without a base.
One of eight repeats an earlier one, and one of ten carries a mark, so that images are read again.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.outcome import save
from PIL import Image, ImageDraw, ImageFont

PROGRAM = """
import resource, sys
from pathlib import Path
from limner.checking.check import check
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
data = {"images": sys.argv[1], "resolution": int(sys.argv[3]), "min_side": 16}
recipe = Recipe(base="./nowhere", data=data)
done = check(recipe, Path(sys.argv[2]), Reporter())
print(done.images, len(done.findings), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
LIMIT = 2e9
"""Bytes that 20,000 images may take."""


def make(folder: Path, count: int, side: int) -> None:
    """``count`` pictures with captions."""
    folder.mkdir(parents=True)
    font = ImageFont.load_default(side // 12)
    for number in range(count):
        draw = np.random.default_rng(number - 7 if number % 8 == 7 else number)
        coarse = Image.fromarray(draw.integers(30, 220, (16, 16, 3), dtype=np.uint8))
        page = coarse.resize((side, side), Image.Resampling.BICUBIC)
        if number % 10 == 0:
            ImageDraw.Draw(page, "RGBA").text((8, 8), "STOCKPIX", font=font, fill=(255, 255, 255, 140))
        page.save(folder / f"{number:06d}.jpg", quality=92)
        (folder / f"{number:06d}.txt").write_text(f"a pattern, number {number}\n")


def peak(work: Path, count: int, side: int) -> dict[str, float]:
    """Images, findings, seconds, and the peak of the process in bytes."""
    photos = work / f"photos-{count}"
    make(photos, count, side)
    start = time.monotonic()
    words = [sys.executable, "-c", PROGRAM, str(photos), str(work / f"page-{count}"), str(side)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    images, findings, size = map(int, output[-3:])
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = round(time.monotonic() - start, 1)
    return {"images": images, "findings": findings, "seconds": seconds, "peak": size * unit}


def main() -> None:
    """Measure a tenth of the images, then all, and save both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=320)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limner-check-") as work:
        small_peak, large_peak = (
            peak(Path(work), count, args.side) for count in (args.images // 10, args.images)
        )
    per_image = (large_peak["peak"] - small_peak["peak"]) / (large_peak["images"] - small_peak["images"])
    result = {"few": small_peak, "many": large_peak, "per_image": round(per_image), "limit": LIMIT}
    sys.stdout.write(
        f"{large_peak['peak'] / 1e9:.2f} GB for {large_peak['images']:.0f} images, "
        f"{per_image / 1e3:.0f} kB each\n"
    )
    save("check_memory", result)
    if large_peak["peak"] > LIMIT:
        sys.exit("More than 2 GB.")


if __name__ == "__main__":
    main()
