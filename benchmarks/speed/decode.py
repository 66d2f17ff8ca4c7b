"""24-megapixel JPEGs to training pixels: Limner against plain Pillow, and what reading a folder costs.

    python -m benchmarks.speed.decode [--photos 6] [--rounds 5] [--sides 512 1024] [--progressive]
                                      [--out FILE.json]

Both pipelines do the same work on the same files, in turns, on one thread: open, upright, RGB, crop to the
bucket, resize to it, array. The plain one decodes whole and resizes with LANCZOS, as training scripts do. The
photos are generated (1/f noise with edges, quality 92, 4:2:0), 6000 x 4000 and 4000 x 6000. Reported: the
median over rounds of the seconds per photo and of their ratio, and the lowest PSNR between the two results.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from benchmarks.outcome import RESULTS, save
from PIL import Image, ImageOps, features

from limner.data.folder import read_folder
from limner.data.views import Scale, View, buckets, pixels, views

LIMIT = 3.0


def photo(seed: int, width: int, height: int) -> Image.Image:
    """Noise of all scales with a photograph's spectrum, and rectangles for edges."""
    draw = np.random.default_rng(seed)
    sheet = np.zeros((height, width, 3), np.float32)
    for scale in (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2):
        coarse = draw.standard_normal((max(2, height // scale), max(2, width // scale), 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            sheet[..., channel] += scale**0.55 * np.asarray(layer)
    sheet = (sheet - sheet.mean()) / sheet.std() * 50 + 128
    for _ in range(60):
        left, top = draw.integers(0, width), draw.integers(0, height)
        wave_x, down = draw.integers(20, 900, 2)
        sheet[top : top + down, left : left + wave_x] += draw.normal(0, 40, 3)
    return Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8))


def plain(view: View) -> np.ndarray:
    """What a training script does."""
    with Image.open(view.example.path) as image:
        whole = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(whole.crop(view.crop).resize(view.size, Image.Resampling.LANCZOS))


def seconds(work: Callable[[View], np.ndarray], view: View) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work(view)
    return time.perf_counter() - start


def compare(views_list: list[View], rounds: int) -> dict[str, Any]:
    """Both pipelines over the same views in turns; the first to go alternates."""
    durations: dict[str, list[float]] = {"plain": [], "limner": []}
    for turn in range(rounds):
        sums = {"plain": 0.0, "limner": 0.0}
        for index, view in enumerate(views_list):
            pair = [("plain", plain), ("limner", pixels)]
            for name, work in pair if (turn + index) % 2 else pair[::-1]:
                sums[name] += seconds(work, view) / len(views_list)
        for name, value in sums.items():
            durations[name].append(value)
    ratios = [slow / fast for slow, fast in zip(durations["plain"], durations["limner"], strict=True)]
    return {
        "size": list(views_list[0].size),
        "plain_s": statistics.median(durations["plain"]),
        "limner_s": statistics.median(durations["limner"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "psnr_db": min(psnr(plain(view), pixels(view)) for view in views_list),
    }


def psnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Of two uint8 pictures, in dB."""
    return float(10 * np.log10(255**2 / np.square(reference.astype(np.float64) - other).mean()))


def folder_seconds(root: Path, photos: int, rounds: int) -> dict[str, float]:
    """Seconds per photo of reading a folder, with and without decoding every photo once."""
    figures: dict[str, float] = {}
    for name, verify in (("headers_s", False), ("verified_s", True)):
        durations: list[float] = []
        for _ in range(rounds):
            start = time.perf_counter()
            read_folder(root, trigger="sks", verify=verify)
            durations.append((time.perf_counter() - start) / photos)
        figures[name] = statistics.median(durations)
    return figures


def main() -> None:
    """Generate, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 512, 768, 1024, 1536])
    parser.add_argument(
        "--progressive", action="store_true", help="progressive JPEGs: all scans must be read"
    )
    parser.add_argument("--out", type=Path, help="default: results/decode.json or decode-progressive.json")
    options = parser.parse_args()
    name = "decode-progressive.json" if options.progressive else "decode.json"
    options.out = options.out or RESULTS / name
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for index in range(options.photos):
            size = (4000, 6000) if index % 3 == 2 else (6000, 4000)
            path = root / f"{index}.jpg"
            photo(index, *size).save(path, quality=92, subsampling="4:2:0", progressive=options.progressive)
        megabytes = sum(path.stat().st_size for path in root.iterdir()) / options.photos / 1e6
        examples = read_folder(root, trigger="sks").examples
        rows = []
        for side in options.sides:
            scale = Scale(buckets(side, multiple=16))
            views_list = views(examples, scales=(scale,), flip=False, dropout=False)
            rows.append({"resolution": side, **compare(list(views_list), options.rounds)})
        folder = folder_seconds(root, options.photos, options.rounds)
    report(options, megabytes, rows, folder)


def report(
    options: argparse.Namespace, megabytes: float, rows: list[dict[str, Any]], folder: dict[str, float]
) -> None:
    """Print the table and write the JSON."""
    jpeg = "progressive" if options.progressive else "baseline"
    print(f"{options.photos} {jpeg} JPEGs of 24 megapixels, {megabytes:.1f} MB each")
    print(f"Pillow {PIL.__version__}, libjpeg {features.version('libjpeg_turbo')}")
    print(f"{'resolution':>10} {'plain ms':>9} {'limner ms':>10} {'ratio':>6} {'(range)':>12} {'PSNR dB':>8}")
    for row in rows:
        spread = f"({row['ratio_min']:.1f}-{row['ratio_max']:.1f})"
        times = f"{row['plain_s'] * 1e3:>9.1f} {row['limner_s'] * 1e3:>10.1f}"
        print(f"{row['resolution']:>10} {times} {row['ratio']:>6.2f} {spread:>12} {row['psnr_db']:>8.1f}")
    print(f"reading a folder, headers and hashes:       {folder['headers_s'] * 1e3:>6.1f} ms per photo")
    print(f"reading a folder, every photo decoded once: {folder['verified_s'] * 1e3:>6.1f} ms per photo")
    worst = min(row["ratio"] for row in rows)
    print(f"wanted >= {LIMIT}x: {'reached' if worst >= LIMIT else 'missed'}, worst {worst:.2f}x")
    figures = {
        "what": "decode and resize of 24-megapixel JPEGs, seconds per photo on one thread",
        "jpeg": jpeg,
        "megabytes": megabytes,
        "photos": options.photos,
        "rounds": options.rounds,
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "wanted_ratio": LIMIT,
        "rows": rows,
        "folder": folder,
    }
    save(options.out.stem, figures, options.out.parent)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
