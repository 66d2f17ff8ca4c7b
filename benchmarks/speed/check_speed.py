"""How long `limner check` takes for photos of 24 megapixels, seen at 1024.

    python -m benchmarks.speed.check_speed [--photos 200] [--out FILE.json]

Different JPEGs (1/f noise with edges, quality 92, 6000 x 4000 and 4000 x 6000) are copied under other names;
each copy has bytes of its own at its end, so that nothing is seen to be the same file.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.outcome import RESULTS, save
from benchmarks.speed.decode import photo

from limner.checking.check import check
from limner.recipe.schema import Recipe
from limner.reporter import PlainText, Reporter

LIMIT = 60.0


def fill(folder: Path, count: int, different: int) -> None:
    """Write the photos."""
    chunks: list[bytes] = []
    for seed in range(min(different, count)):
        path = folder / f"{seed}.jpg"
        photo(seed, *((4000, 6000) if seed % 3 == 2 else (6000, 4000))).save(path, quality=92)
        chunks.append(path.read_bytes())
        path.unlink()
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(chunks[number % len(chunks)] + number.to_bytes(4))
        (folder / f"{number:03}.txt").write_text(f"sks cat, photo {number}")


def main() -> None:
    """Generate, check, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--different", type=int, default=6, help="photos that are generated")
    parser.add_argument("--out", type=Path, default=RESULTS / "check_speed.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        folder.mkdir()
        fill(folder, options.photos, options.different)
        data = {"images": str(folder), "resolution": 1024, "trigger": "sks cat"}
        before, start = time.process_time(), time.perf_counter()
        check(Recipe(base="./none", data=data), Path(temporary) / "out", Reporter(PlainText()))
        wall, cpu = time.perf_counter() - start, time.process_time() - before
    cores = len(os.sched_getaffinity(0))
    result = {
        "what": "limner check of 24-megapixel JPEGs at 1024",
        "photos": options.photos,
        "cores_used": cores,
        "wall_s": wall,
        "cpu_s": cpu,
        "cpu_s_per_photo": cpu / options.photos,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "wanted_s_for_200_on_2_cores": LIMIT,
        "cpu_s_of_200_over_2_cores": cpu / options.photos * 200 / 2,
    }
    print(
        f"{options.photos} photos: {wall:.0f} s, {cores} cores, {cpu / options.photos * 1e3:.0f} ms CPU each"
    )
    print(
        f"200 on 2 free cores, by CPU time: {result['cpu_s_of_200_over_2_cores']:.1f} s (wanted {LIMIT:.0f})"
    )
    save(options.out.stem, result, options.out.parent)


if __name__ == "__main__":
    main()
