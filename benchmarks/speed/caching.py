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
BESIDE = {"decode": (encode, "pixels"), "write": (Cache, "write")}
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
def clocks(spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds inside the clocked functions; one inside another counts for the inner one only."""
    own, lock = local(), Lock()

    def clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **named: Any) -> Any:
            inner = own.__dict__.setdefault("inner", [0.0])
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*values, **named)
            finally:
                took, nested = time.perf_counter() - start, inner.pop()
                inner[-1] += took
                with lock:
                    spent[part] += took - nested

        return timed

    with ExitStack() as stack:
        for part, (place, name) in {**IN_TURN, **BESIDE}.items():
            stack.enter_context(patch.object(place, name, clocked(part, getattr(place, name))))
        yield


def filling(chosen: Resolved) -> dict[str, float]:
    """Seconds of one fill of an empty cache, whole and by part."""
    shutil.rmtree(verb.cache_root(chosen.recipe), ignore_errors=True)
    spent = dict.fromkeys((*IN_TURN, *BESIDE), 0.0)
    start = time.perf_counter()
    with clocks(spent):
        verb.fill_cache(chosen, Reporter())
    whole = time.perf_counter() - start
    return {"whole": whole, **spent, "rest": whole - sum(spent[part] for part in IN_TURN)}


def bare(chosen: Resolved) -> Callable[[], float]:
    """What measures the seconds of encoding everything once, from decoded and tokenized tensors."""
    models = {
        name: encoders.load(chosen.family, chosen.source, name, dtype=chosen.dtype, device=chosen.device)
        for name in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "vae")
    }
    vae: Any = models["vae"]
    units = {unit.name: unit for unit in chosen.cut.frozen}
    images = [image_tensor(view).to(chosen.device) for view in chosen.views]
    tokens = []
    for caption in dict.fromkeys(view.caption for view in chosen.views):
        given = {"caption": (caption,)}
        short = units["tokenize"].run(models, given)["clip_tokens"].to(chosen.device)
        tokens.append((short, units["tokenize_2"].run(models, given)["t5_tokens"].to(chosen.device)))

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


def measure(asked: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All rounds, after one of each side that does not count."""
    (work / "images").mkdir()
    for at in range(asked.images):
        photo(at, asked.side, asked.side).save(work / "images" / f"{at}.jpg", quality=92)
        (work / "images" / f"{at}.txt").write_text(f"a picture of the number {at}")
    chosen = resolved(asked.base, work)
    fill = bare(chosen)
    filling(chosen)
    fill()
    rows = []
    for turn in range(asked.rounds):
        before = fill()
        row = filling(chosen)
        row["bare"] = (before + fill()) / 2
        row["steady"] = row["whole"] - row["load"] - row["reckon"]
        row["ratio"], row["steady_ratio"] = row["bare"] / row["whole"], row["bare"] / row["steady"]
        rows.append(row)
        print(f"round {turn + 1}: {row['ratio']:.2f}, steady {row['steady_ratio']:.2f}", file=sys.stderr)
    resolution = f"{chosen.views[0].size[0]} x {chosen.views[0].size[1]}"
    return {"encoded_at": resolution, "medians": medians(rows), "rows": rows}


def show(asked: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print the table."""
    middle = found["medians"]
    print(f"{asked.images} JPEGs of {asked.side} px, encoded at {found['encoded_at']}, a caption each")
    lines = [
        [side, f"{asked.images / middle[key]:.1f}", f"{ratio:.2f}"]
        for side, key, ratio in (
            ("bare encoding", "bare", 1.0),
            ("limner cache, steady", "steady", middle["steady_ratio"]),
            ("limner cache, whole", "whole", middle["ratio"]),
        )
    ]
    print(table(["", "images/s", "of bare"], lines))
    parts = [*IN_TURN, "rest", *BESIDE]
    shares = [f"{statistics.median(row[part] / row['whole'] for row in found['rows']):.1%}" for part in parts]
    each = [f"{middle[part] / asked.images * 1e3:.2f}" for part in parts]
    header = ["", *(f"({part})" if part in BESIDE else part for part in parts)]
    print(table(header, [["share of the whole", *shares], ["ms per image", *each]]))
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
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(asked, Path(temporary))
    show(asked, found)
    print(save(asked.name, {"settings": vars(asked), **found}))


if __name__ == "__main__":
    main()
