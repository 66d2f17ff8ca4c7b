"""What the embedded predictor is worth on styles that it never saw, beside LoRAs of the same pictures.

    python -m benchmarks.quality.instant --art art.npz --stage loras --work build/instant-bench
    python -m benchmarks.quality.instant --art art.npz --stage predictor --work build/instant-bench

The first stage trains a LoRA for every style, which the predictor does not change; the second measures the
predictor beside them. Unseen parameters, unseen kinds and the demo's styles are told apart; noise and times
are the same for all; intervals are bootstrapped over styles.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.outcome import RESULTS, save
from benchmarks.quality import instant_loras
from benchmarks.quality.instant_loras import fresh, of_style, stacked
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from limner.bases.art import read_art
from limner.bases.demo_sets import TEST_NOUNS
from limner.bases.instant_exam import (
    DEMO_STYLES,
    Sampling,
    StyleSet,
    at_strength,
    exam,
    generate,
    loss,
    sampling_of,
)
from limner.bases.judge import Judge, style_scores
from limner.bases.make_instant import ENDINGS, frozen_parts
from limner.bases.style_sets import Drawings
from limner.hyper.predictor import Predictor, PredictorConfig
from limner.lora.factors import Factors
from limner.lora.svd import spectrum
from limner.models.registry import embedded_bases
from limner.nn.layers.per_sample import Pairs

RATES = (1e-3, 3e-4)
"""Of the LoRAs; the better one at each step counts."""
JUDGED_RATE = 1e-3
"""Of the LoRAs whose images are judged."""
IMAGES = 20
"""Of a style that are judged."""
START_STEPS = 50
START_RATE = 5e-4
"""Of a training that a prediction starts."""
GRID = (("positive", 2.0, 1.0), ("positive", 3.0, 1.0), ("both", 3.0, 1.0), ("both", 3.0, 1.25))
"""Branches that the LoRA is on, guidance, and strength of the LoRA."""


class Bench:
    """The base, the judge and the styles of the exam."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.models, self.targets = frozen_parts(args.base, ENDINGS)
        art = read_art(args.art)
        facts = json.loads((args.base / "limner.json").read_text(encoding="utf-8"))
        drawings = Drawings(art, facts["concepts"], facts["resolution"])
        self.styles = exam(art, drawings, self.models, new=args.new, kinds=args.kinds)
        self.judge = Judge.load()
        nouns = [noun for noun in TEST_NOUNS if noun in self.judge.concept_names]
        self.nouns = (nouns * 2)[:IMAGES]  # a noun that comes twice has other noise
        self.work = args.work

    def losses(self, pairs: Mapping[str, Pairs | None]) -> dict[str, float]:
        """Style -> loss with its LoRA."""
        return {style.name: loss(self.models, style, pairs[style.name]) for style in self.styles}

    def judged(self, style: StyleSet, pairs: Pairs | None, sampling: Sampling) -> dict[str, float]:
        """Share of nouns recognised and, of a demo style, of images told as it."""
        images = generate(self.models, self.nouns, pairs, sampling)
        name = style.name if style.name in DEMO_STYLES else self.judge.style_names[0]
        scores = style_scores(self.judge, images, self.nouns, name)
        return scores if style.name in DEMO_STYLES else {"concept": scores["concept"]}

    def by_group(self, values: Mapping[str, float]) -> dict[str, list[float]]:
        """Group -> values of its styles."""
        groups: dict[str, list[float]] = {}
        for style in self.styles:
            if style.name in values:
                groups.setdefault(style.group, []).append(values[style.name])
        return groups


def interval(values: Sequence[float]) -> list[float]:
    """Mean, and the 95 % interval of the bootstrap over styles."""
    draw = np.random.default_rng(0)
    sample = draw.choice(np.asarray(values), (2000, len(values))).mean(1)
    return [round(float(x), 4) for x in (np.mean(values), *np.percentile(sample, (2.5, 97.5)))]


def train_loras(bench: Bench, steps: int) -> None:
    """A LoRA for every style at every rate: curves, and the factors of the judged rate."""
    curves = {}
    for rate in RATES:
        start = fresh(bench.targets, len(bench.styles), 8, seed=0)
        curves[f"{rate:g}"], factors = instant_loras.train(
            bench.models, bench.styles, start, rate=rate, steps=steps if rate == JUDGED_RATE else steps // 2
        )
        if rate == JUDGED_RATE:
            save_file(_flat(factors), bench.work / "loras.safetensors")
        (bench.work / "curves.json").write_text(json.dumps(curves, indent=1))
    score_rows = {}
    for number, style in enumerate(bench.styles):
        pairs = of_style(factors_of(bench.work / "loras.safetensors"), number)
        score_rows[style.name] = {
            word: bench.judged(style, pairs, Sampling(guidance=guidance, positive_only=positive))
            for word, guidance, positive in (("both 3", 3.0, False), ("positive 2", 2.0, True))
        }
    (bench.work / "judged.json").write_text(json.dumps(score_rows, indent=1))


def factors_of(path: Path) -> Pairs:
    """Factors of all styles that were saved."""
    tensors = load_file(path)
    names = {key.rsplit(".", 1)[0] for key in tensors}
    return {name: (tensors[f"{name}.0"], tensors[f"{name}.1"]) for name in names}


def best_losses(curves: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Style -> lowest loss over rates and steps."""
    rows = [losses for curve in curves.values() for losses in curve.values()]
    return {style: min(row[style] for row in rows) for style in rows[0]}


def predicted(bench: Bench, predictor: Predictor, count: int) -> dict[str, Pairs]:
    """Style -> LoRA of its first ``count`` references."""
    with torch.no_grad():
        return {style.name: predictor(style.references[None, :count]) for style in bench.styles}


def cut(pairs: Pairs, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The nearest LoRA of a rank."""
    factors = {
        name: spectrum(Factors(down[0].contiguous(), up[0].contiguous())).cut(rank)
        for name, (down, up) in pairs.items()
    }
    return {name: (pair.down[None], pair.up[None]) for name, pair in factors.items()}


def variance_ratio(pairs: Sequence[Pairs]) -> float:
    """E |dW - mean|^2 / E |dW|^2 over styles: 0 is one LoRA for all."""
    part = whole = 0.0
    for name in pairs[0]:
        changes = torch.cat([style[name][1] @ style[name][0] for style in pairs])
        whole += float(changes.square().sum())
        part += float((changes - changes.mean(0)).square().sum())
    return part / whole


def conditional(bench: Bench, pairs: Mapping[str, Pairs], before: Mapping[str, float]) -> dict[str, Any]:
    """Another style's LoRA in place of its own, over eight new styles."""
    styles = [style for style in bench.styles if style.group == "new"][:8]
    rows = [[loss(bench.models, style, pairs[other.name]) for other in styles] for style in styles]
    first = np.array(rows)
    diagonal, count = np.diag(first), len(styles)
    mean_of_rest = (first.sum(1) - diagonal) / (count - 1)
    base = np.array([before[style.name] for style in styles])
    return {
        "own is the best of": count,
        "own is the best in": int((first.argmin(1) == np.arange(count)).sum()),
        "shuffle gap": float((mean_of_rest - diagonal).mean() / (base - diagonal).mean()),
        "variance ratio": variance_ratio([pairs[style.name] for style in styles]),
    }


def started(
    bench: Bench, pairs: Mapping[str, Pairs], steps: int
) -> tuple[dict[int, dict[str, float]], Pairs]:
    """Train on from the predictions."""
    start = stacked([pairs[style.name] for style in bench.styles])
    return instant_loras.train(bench.models, bench.styles, start, rate=START_RATE, steps=steps, warm=5)


def steps_to(curve: Mapping[int, Mapping[str, float]], goals: Mapping[str, float]) -> dict[str, float]:
    """Style -> first mark at which a curve is at its goal; infinite where it never is."""
    return {
        name: min((step for step, losses in curve.items() if losses[name] <= goal), default=float("inf"))
        for name, goal in goals.items()
    }


def measure(bench: Bench, predictor: Predictor, file: Path) -> dict[str, Any]:
    """All figures of the predictor."""
    curves = json.loads((bench.work / "curves.json").read_text())
    scratch = json.loads((bench.work / "judged.json").read_text())
    before = bench.losses(dict.fromkeys([style.name for style in bench.styles]))
    best = best_losses(curves)
    figures: dict[str, Any] = {"base loss": _means(bench, before), "gain": {}, "share of the best LoRA": {}}
    for count in (1, 2, 4, 8):
        losses = bench.losses(predicted(bench, predictor, count))
        figures["gain"][count] = _intervals(bench, {name: before[name] - losses[name] for name in losses})
        if count == 8:
            figures["share of the best LoRA"] = {
                group: round(sum(gains) / sum(bar), 3)
                for (group, gains), bar in zip(
                    bench.by_group({name: before[name] - losses[name] for name in losses}).items(),
                    bench.by_group({name: before[name] - best[name] for name in losses}).values(),
                    strict=True,
                )
            }
    pairs = predicted(bench, predictor, 8)
    figures["conditional"] = conditional(bench, pairs, before)
    figures["re-rank"] = reranked(bench, pairs, before, cut)
    figures["first ranks"] = reranked(bench, pairs, before, first_ranks)
    figures["judge"] = judge_figures(bench, pairs, predictor.config)
    figures["judge"] |= {f"scratch at 300, {word}": row for word, row in _judge_means(bench, scratch).items()}
    figures["start"] = start_figures(bench, pairs, best)
    figures["pass"] = timing(bench, predictor, file)
    return figures


def start_figures(bench: Bench, pairs: Mapping[str, Pairs], best: Mapping[str, float]) -> dict[str, Any]:
    """A training that begins at the predictions: steps to scratch's best loss, and images after 50 steps."""
    curve, factors = started(bench, pairs, START_STEPS)
    save_file(_flat(factors), bench.work / "started.safetensors")
    sampling = Sampling(guidance=3.0, positive_only=False)
    score_rows = {
        style.name: {"both 3": bench.judged(style, of_style(factors, number), sampling)}
        for number, style in enumerate(bench.styles)
        if style.name in DEMO_STYLES
    }
    steps = steps_to(curve, best)
    return {
        "steps to scratch's best": {
            group: [value if np.isfinite(value) else None for value in values]
            for group, values in bench.by_group(steps).items()
        },
        "loss": {step: _means(bench, losses) for step, losses in curve.items()},
        "judge": _judge_means(bench, score_rows),
    }


def _flat(pairs: Pairs) -> dict[str, Tensor]:
    return {f"{name}.{side}": pair[side].contiguous() for name, pair in pairs.items() for side in (0, 1)}


def reranked(
    bench: Bench,
    pairs: Mapping[str, Pairs],
    before: Mapping[str, float],
    smaller: Callable[[Pairs, int], Pairs],
) -> dict[int, float]:
    """Rank -> share of the gain that is kept."""
    full = bench.losses(pairs)
    whole = sum(before[name] - full[name] for name in full)
    shares = {}
    for rank in (1, 2, 4):
        losses = bench.losses({name: smaller(lora, rank) for name, lora in pairs.items()})
        shares[rank] = round(sum(before[name] - losses[name] for name in losses) / whole, 4)
    return shares


def first_ranks(pairs: Pairs, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """What ``limner instant --rank`` keeps of a nested prediction."""
    return {name: (down[:, :rank], up[..., :rank]) for name, (down, up) in pairs.items()}


def judge_figures(bench: Bench, pairs: Mapping[str, Pairs], config: PredictorConfig) -> dict[str, Any]:
    """The judge's word on the demo's styles over :data:`GRID`, and on all styles at the default."""
    rows = {
        style.name: {
            f"{branches}, guidance {guidance:g}, strength {strength:g}": bench.judged(
                style,
                at_strength(pairs[style.name], strength),
                Sampling(guidance=guidance, positive_only=branches == "positive"),
            )
            for branches, guidance, strength in GRID
        }
        for style in bench.styles
        if style.name in DEMO_STYLES
    }
    default = {
        style.name: {
            "default": bench.judged(
                style, at_strength(pairs[style.name], config.strength), sampling_of(config)
            )
        }
        for style in bench.styles
    }
    return _judge_means(bench, rows) | _judge_means(bench, default)


def _judge_means(bench: Bench, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Setting -> style shares of the demo's styles, and nouns by group and over all."""
    words = next(iter(rows.values()))
    result = {}
    for word in words:
        concepts = {name: row[word]["concept"] for name, row in rows.items()}
        result[word] = {
            "style": {name: round(rows[name][word]["style"], 3) for name in DEMO_STYLES},
            "nouns": _means(bench, concepts) | {"all": round(float(np.mean(list(concepts.values()))), 3)},
        }
    return result


def _means(bench: Bench, values: Mapping[str, float]) -> dict[str, float]:
    return {group: round(float(np.mean(numbers)), 4) for group, numbers in bench.by_group(values).items()}


def _intervals(bench: Bench, values: Mapping[str, float]) -> dict[str, list[float]]:
    return {group: interval(numbers) for group, numbers in bench.by_group(values).items()}


def static_share(bench: Bench, static: Predictor, figures: Mapping[str, Any]) -> dict[str, float]:
    """Group -> what is left of the gain when that of a static LoRA is taken away, as a share of it."""
    lora = {style.name: static.static(1) for style in bench.styles}
    with torch.no_grad():
        losses = _means(bench, bench.losses(lora))
    base, gains = figures["base loss"], figures["gain"][8]
    return {group: round(1 - (base[group] - losses[group]) / gains[group][0], 3) for group in losses}


def timing(bench: Bench, predictor: Predictor, file: Path) -> dict[str, float]:
    """Seconds of a pass over four references, the median of 20; bytes of the file."""
    references = bench.styles[0].references[None, :4]
    seconds = []
    with torch.no_grad():
        for _ in range(20):
            start = time.perf_counter()
            predictor(references)
            seconds.append(time.perf_counter() - start)
    return {"seconds": float(np.median(seconds)), "bytes": file.stat().st_size}


def sheet(bench: Bench, pairs: Mapping[str, Pairs], config: PredictorConfig) -> Image.Image:
    """A row for each of eight styles: references, base, one pass, one pass and 50 steps, 300 from scratch."""
    names = [*DEMO_STYLES, "new/0", "new/2", "new/3", "glow/0", "hatch/0"]
    trained = [factors_of(bench.work / f"{name}.safetensors") for name in ("started", "loras")]
    default_sampling, two = sampling_of(config), Sampling(guidance=3.0, positive_only=False)
    strips = []
    for number, style in enumerate(bench.styles):
        if style.name in names:
            predicted_lora = at_strength(pairs[style.name], config.strength)
            loras = [
                (None, two),
                (predicted_lora, default_sampling),
                *((of_style(t, number), two) for t in trained),
            ]
            images = [generate(bench.models, bench.nouns[:4], *lora) for lora in loras]
            strips.append([style.references[:4].permute(0, 2, 3, 1).numpy(), *images])
    step = bench.styles[0].references.shape[-1] + 2
    width = 4 * step + 12
    page = Image.new("RGB", (width * len(strips[0]), step * len(strips)), "white")
    for row, strip in enumerate(strips):
        for block, images in enumerate(strip):
            for column, image in enumerate(images):
                page.paste(Image.fromarray(image), (block * width + column * step, row * step))
    return page


def main() -> None:
    """Measure a stage, print, save."""
    parser = argparse.ArgumentParser(description="Measure the embedded predictor.")
    parser.add_argument("--art", type=Path, required=True, help="made by limner.bases.art")
    parser.add_argument("--stage", choices=("loras", "predictor"), required=True)
    parser.add_argument("--base", type=Path, default=embedded_bases()["glyph"])
    parser.add_argument("--predictor", type=Path, default=embedded_bases()["glyph"].parent / "glyph-instant")
    parser.add_argument("--new", type=int, default=8, help="styles of kinds that training has")
    parser.add_argument("--kinds", type=int, default=2, help="styles of each kind that it has not")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--static", type=Path, help="a predictor of which only the static LoRA was trained")
    parser.add_argument("--work", type=Path, default=Path("build/instant-bench"))
    parser.add_argument("--name", default="instant", help="of the files that are written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.manual_seed(0)
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    if args.stage == "loras":
        train_loras(bench, args.steps)
        return
    predictor = Predictor.load(args.predictor)
    file = args.predictor / "predictor.safetensors" if args.predictor.is_dir() else args.predictor
    figures = measure(bench, predictor, file)
    if args.static:
        static = Predictor.load(args.static)
        figures["conditional"]["share over a static LoRA"] = static_share(bench, static, figures)
        figures["conditional"]["static LoRA's training"] = static.record
    sheet(bench, predicted(bench, predictor, 8), predictor.config).save(args.out / f"{args.name}.png")
    save(args.name, {"new": args.new, "kinds": args.kinds, "training": predictor.record, **figures}, args.out)


if __name__ == "__main__":
    main()
