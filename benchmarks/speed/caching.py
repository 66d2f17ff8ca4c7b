"""Filling the cache beside bare encoding: images per second, and where the rest of the time goes.

    python -m benchmarks.speed.caching [--base glyph] [--images 48] [--side 1024] [--rounds 5] [--threads 2]

One side is what ``limner cache`` does once the folder is read: find what is missing, reckon its bytes, load
one model after another, decode, encode one image or caption at a time (as the law of the cache wants), hash,
write, sync. The other side has its models loaded, its images decoded and its captions tokenized, and only
calls the VAE and the text encoders, one item at a time too. Both in one process, in turns, the cache empty
each time. Every image is a JPEG with a caption of its own. Clocks inside the first side tell the shares of
loading, reckoning and encoding; decoding and writing (with hashing) go on in threads beside them. ``steady``
leaves out loading and reckoning, paid once a fill.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock, local
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.outcome import medians, save, table
from benchmarks.speed.decode import photo

from limner.assembly.resolve import Resolved, resolve
from limner.graph.cache import Cache
from limner.graph.unit import Unit
from limner.recipe import toml
from limner.reporter import Reporter
from limner.training import cache as verb
from limner.training import encode, encoders
from limner.training.rows import image_tensor

IN_TURN = {"load": (encoders, "load"), "reckon": (verb, "bytes_needed"), "encode": (Unit, "run")}
"""Part of the time -> the function whose time it is."""
IN_PARALLEL = {"decode": (encode, "pixels"), "write": (Cache, "write")}
"""The same of what runs in threads, several at once: these seconds are not part of the whole."""


def resolved(base: str, work: Path) -> Resolved:
    """A recipe over the images, whose cache is ``work/cache``."""
    text = f"""
base = {json.dumps(base)}
[data]
images = "images"
cache = "cache"
validation_count = 0
[sample]
every = -1
[limits]
compute_dtype = "fp32"
"""
    return resolve(toml.parse(text, work))


@contextmanager
def clocks(seconds: dict[str, float]) -> Iterator[None]:
    """Add up the seconds inside the clocked functions; one inside another counts for the inner one only."""
    local_state, lock = local(), Lock()

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **keywords: Any) -> Any:
            inner = local_state.__dict__.setdefault("inner", [0.0])
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*values, **keywords)
            finally:
                took, nested = time.perf_counter() - start, inner.pop()
                inner[-1] += took
                with lock:
                    seconds[part] += took - nested

        return timed

    with ExitStack() as stack:
        for part, (place, name) in {**IN_TURN, **IN_PARALLEL}.items():
            stack.enter_context(patch.object(place, name, clocked(part, getattr(place, name))))
        yield


def filling(resolved_run: Resolved) -> dict[str, float]:
    """Seconds of one fill of an empty cache, whole and by part."""
    shutil.rmtree(verb.cache_root(resolved_run.recipe), ignore_errors=True)
    seconds = dict.fromkeys((*IN_TURN, *IN_PARALLEL), 0.0)
    start = time.perf_counter()
    with clocks(seconds):
        verb.fill_cache(resolved_run, Reporter())
    whole = time.perf_counter() - start
    return {"whole": whole, **seconds, "rest": whole - sum(seconds[part] for part in IN_TURN)}


def bare(resolved_run: Resolved) -> Callable[[], float]:
    """What measures the seconds of encoding everything once, from decoded and tokenized tensors."""
    models = {
        name: encoders.load(
            resolved_run.family,
            resolved_run.source,
            name,
            dtype=resolved_run.dtype,
            device=resolved_run.device,
        )
        for name in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "vae")
    }
    vae: Any = models["vae"]
    units = {unit.name: unit for unit in resolved_run.cut.frozen}
    images = [image_tensor(view).to(resolved_run.device) for view in resolved_run.views]
    tokens = []
    for caption in dict.fromkeys(view.caption for view in resolved_run.views):
        texts = {"caption": (caption,)}
        short = units["tokenize"].run(models, texts)["clip_tokens"].to(resolved_run.device)
        tokens.append((short, units["tokenize_2"].run(models, texts)["t5_tokens"].to(resolved_run.device)))

    @torch.no_grad()
    def measured() -> float:
        start = time.perf_counter()
        for short, long in tokens:
            models["text_encoder"](short).pooler_output.cpu()
            models["text_encoder_2"](long).last_hidden_state.cpu()
        for image in images:
            posterior = vae.encode(image.to(vae.dtype) / 127.5 - 1).latent_dist
            torch.cat([posterior.mean, posterior.logvar]).cpu()
        return time.perf_counter() - start

    return measured


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All rounds, after one of each side that does not count."""
    (work / "images").mkdir()
    for index in range(options.images):
        photo(index, options.side, options.side).save(work / "images" / f"{index}.jpg", quality=92)
        (work / "images" / f"{index}.txt").write_text(f"a picture of the number {index}")
    resolved_run = resolved(options.base, work)
    fill = bare(resolved_run)
    filling(resolved_run)
    fill()
    rows = []
    for turn in range(options.rounds):
        before = fill()
        row = filling(resolved_run)
        row["bare"] = (before + fill()) / 2
        row["steady"] = row["whole"] - row["load"] - row["reckon"]
        row["ratio"], row["steady_ratio"] = row["bare"] / row["whole"], row["bare"] / row["steady"]
        rows.append(row)
        print(f"round {turn + 1}: {row['ratio']:.2f}, steady {row['steady_ratio']:.2f}", file=sys.stderr)
    resolution = f"{resolved_run.views[0].size[0]} x {resolved_run.views[0].size[1]}"
    return {"encoded_at": resolution, "medians": medians(rows), "rows": rows}


def show(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the table."""
    middle = figures["medians"]
    print(f"{options.images} JPEGs of {options.side} px, encoded at {figures['encoded_at']}, a caption each")
    lines = [
        [side, f"{options.images / middle[key]:.1f}", f"{ratio:.2f}"]
        for side, key, ratio in (
            ("bare encoding", "bare", 1.0),
            ("limner cache, steady", "steady", middle["steady_ratio"]),
            ("limner cache, whole", "whole", middle["ratio"]),
        )
    ]
    print(table(["", "images/s", "of bare"], lines))
    parts = [*IN_TURN, "rest", *IN_PARALLEL]
    shares = [
        f"{statistics.median(row[part] / row['whole'] for row in figures['rows']):.1%}" for part in parts
    ]
    cells = [f"{middle[part] / options.images * 1e3:.2f}" for part in parts]
    header = ["", *(f"({part})" if part in IN_PARALLEL else part for part in parts)]
    print(table(header, [["share of the whole", *shares], ["ms per image", *cells]]))
    print("(in threads, beside the rest)")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="glyph", help="a registered name or a folder in diffusers layout")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--side", type=int, default=1024, help="of the JPEGs in the folder, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="caching", help="of the JSON file in benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options, Path(temporary))
    show(options, figures)
    print(save(options.name, {"settings": vars(options), **figures}))


if __name__ == "__main__":
    main()
