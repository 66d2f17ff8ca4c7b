"""Does `limner judge` order steps and strengths as the embedded judge's own answers do?

    python -m benchmarks.quality.judge_ranks runs/mascot runs/ink runs/fluent3d

The runs were judged. Likeness and leak compare features; the heads of the same network, which were trained to
name a hand or to know the mascot, answer another question about the same images. Each run is of a set of the
demo, by whose name its folder is called. Writes ``results/judge_ranks.json``.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.outcome import save, table
from PIL import Image

from limner.bases.judge import Judge, stack

SUBJECT = "mascot"


def main() -> None:
    """Compare, and write down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    rows = [ranks(run, Judge.load()) for run in parser.parse_args().runs]
    figures = [[f"{row[name]:.2f}" for name in ("likeness", "leak")] for row in rows]
    cells = [[row["run"], str(row["cells"]), *pair] for row, pair in zip(rows, figures, strict=True)]
    print(table(["run", "cells", "likeness", "leak"], cells))
    save("judge_ranks", {"runs": rows})


def ranks(run: Path, judge: Judge) -> dict[str, Any]:
    """Rank correlation (Spearman) over the cells of a run, of two measures with what a head sees."""
    record = json.loads((run / "judge.json").read_text())
    images: dict[tuple[bool, int, float], list[Path]] = defaultdict(list)
    for row in record["images"]:
        key = (row["prompt"] in record["prompts"], row["step"], row["strength"])
        images[key].append(run / row["path"])
    cells = record["cells"]
    with_trigger = [seen(images[True, cell["step"], cell["strength"]], run.name, judge) for cell in cells]
    base_scores = [seen(images[False, cell["step"], cell["strength"]], run.name, judge) for cell in cells]
    return {
        "run": run.name,
        "cells": len(cells),
        "likeness": spearman([cell["likeness"]["mean"] for cell in cells], with_trigger),
        "leak": spearman([cell["leak"]["mean"] for cell in cells], base_scores),
        "seen": with_trigger,
        "seen_without_trigger": base_scores,
    }


def seen(paths: list[Path], name: str, judge: Judge) -> float:
    """Mean probability that images show the mascot, or are drawn in a hand, by the judge's heads."""
    pixels = stack([Image.open(path).convert("RGB") for path in paths], judge.side)
    if name == SUBJECT:
        return float(judge.subject(pixels).mean())
    return float(judge.styles(pixels)[:, judge.style_names.index(name)].mean())


def spearman(first: list[float], second: list[float]) -> float:
    """Correlation of ranks."""
    orders = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(*orders)[0, 1])


if __name__ == "__main__":
    main()
