"""What a predictor is worth on styles that it has not seen: figures that a low loss does not replace.

A predictor that gives one LoRA for all pictures has a fair loss. So each style's loss is measured with its
own LoRA, without any, and with those of other styles; and how much the LoRAs differ is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limner.assembly.resolve import Resolved, resolve
from limner.data.order import QUANTILES, SampledView
from limner.data.styles import IMAGES_PER_STYLE
from limner.errors import BadData
from limner.graph.unit import run as run_units
from limner.hyper.predictor import VAE, Predictor
from limner.hyper.train import MODEL, PAIRS
from limner.nn.layers.per_sample import Pairs
from limner.nn.rng import Even
from limner.prediction import require_named_base
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from limner.reporter import Reporter, counted
from limner.training.cache import fill_cache
from limner.training.model import TrainableModel

COMPARED = 8
"""Styles of which each is measured with the LoRA of each."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What is measured, and on what."""

    base: str
    styles: Path
    """A folder of style folders."""
    experts: tuple[Path, ...] = ()
    """Further predictors, and static ones, whose LoRAs are added."""
    references: int = 4
    """Images of each style that are looked at; the others are measured."""
    encoders: Path | None = None
    """Folder of frozen encoders."""


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """Figures of a predictor. Losses are means over styles."""

    styles: int
    images: int
    """That were measured."""
    base_loss: float
    loss: float
    """Each style with its own LoRA."""
    gain: float
    """What the LoRA takes off the loss; below 0 it drifts from what the images are."""
    gain_interval: tuple[float, float]
    """95 %, by the bootstrap over styles."""
    shuffle_gap: float | None
    """What another style's LoRA costs, as a share of the gain; None of a single style."""
    best_of_own: str
    """In how many styles the own LoRA is the best of all compared: "7 of 8"."""
    variance_ratio: float | None
    """E |dW - mean|^2 / E |dW|^2 over styles: 0 is one LoRA for all."""
    by_style: Mapping[str, tuple[float, float]]
    """Style -> loss of the base, and with its LoRA."""

    def lines(self) -> list[str]:
        """For people."""
        low, high = self.gain_interval
        lines = [
            f"{counted(self.styles, 'style')}, {counted(self.images, 'image')}: loss {self.base_loss:.4f} "
            f"without a LoRA, {self.loss:.4f} with that of each style: gain {self.gain:.4f} "
            f"({low:.4f} to {high:.4f})"
        ]
        if self.shuffle_gap is not None:
            lines.append(
                f"With another style's LoRA {self.shuffle_gap:.0%} of the gain is lost; the own one is the "
                f"best in {self.best_of_own}; variance ratio of dW {self.variance_ratio:.2f}"
            )
        return lines


@dataclass(frozen=True)
class _Style:
    name: str
    references: tuple[int, ...]
    targets: tuple[int, ...]


def evaluate_predictor(path: Path, options: EvalOptions, reporter: Reporter) -> EvalReport:
    """Measure a predictor on a folder of style folders.

    Raises:
        BadBase: The predictor is damaged, or is for another base.
        BadData: The folder holds no styles.
    """
    predictor = Predictor.load(path)
    require_named_base(predictor, path.name, options.base, reporter)
    resolved = resolve(_recipe(predictor, options), tell=reporter.line)
    store, _ = fill_cache(resolved, reporter)
    model = TrainableModel(resolved, store)
    model.models[MODEL].learner.load_state_dict(predictor.state_dict())
    styles = _styles(resolved, options.references)
    with reporter.progress("Measuring", len(styles)) as bar, torch.no_grad():
        return _report(model, styles, bar.advance)


def _recipe(predictor: Predictor, options: EvalOptions) -> Recipe:
    config = predictor.config
    folder = {"instant.encoder_folder": str(options.encoders)} if options.encoders else {}
    sides = [look.side for look in config.looks if look.name == VAE]
    return change(
        Recipe(),
        {
            "base": options.base,
            "data.images": str(options.styles),
            "data.validation_count": 0,
            "train.method": "instant",
            "train.batch": 4,
            "lora.rank": config.rank,
            "lora.targets": [target.name for target in config.targets],
            "instant.encoders": list(config.names),
            "instant.side": config.side,
            "instant.width": config.width,
            "instant.bottleneck": config.bottleneck,
            "instant.detail": config.detail,
            "instant.experts": [str(path) for path in options.experts],
            "sample.every": -1,
            "instant.vae_side": sides[0] if sides else None,
            **folder,
        },
    )


def _styles(resolved: Resolved, references: int) -> list[_Style]:
    """Of each style, rows to look at and other rows to measure, one of each image."""
    rows: dict[Path, dict[str, int]] = {}
    for row, view in enumerate(resolved.own):
        rows.setdefault(view.example.path.parent, {}).setdefault(view.example.sha256, row)
    styles = []
    for folder, images in sorted(rows.items()):
        members = list(images.values())
        count = min(references, len(members) // 2)
        if not count:
            raise BadData(f"{folder} has one image, and a style needs two. Add more, or remove the folder.")
        targets = members[count : count + IMAGES_PER_STYLE]
        styles.append(_Style(folder.name, tuple(members[:count]), tuple(targets)))
    return styles


def _report(model: TrainableModel, styles: Sequence[_Style], advance: Any) -> EvalReport:
    pairs = {style.name: _pairs(model, style) for style in styles}
    base_losses, style_losses = {}, {}
    for style in styles:
        base_losses[style.name] = _loss(model, style, {})
        style_losses[style.name] = _loss(model, style, pairs[style.name])
        advance(1)
    gains = np.array([base_losses[style.name] - style_losses[style.name] for style in styles])
    matrix = np.array(
        [
            [
                style_losses[style.name] if style is column else _loss(model, style, pairs[column.name])
                for column in styles[:COMPARED]
            ]
            for style in styles[:COMPARED]
        ]
    )
    count = len(matrix)
    wins = int((matrix.argmin(1) == np.arange(count)).sum())
    gap = None
    if count > 1:
        other_losses = (matrix.sum(1) - matrix.diagonal()) / (count - 1)
        gap = float((other_losses - matrix.diagonal()).mean() / abs(gains[:count].mean()))
    sample = np.random.default_rng(0).choice(gains, (2000, len(gains))).mean(1)
    low, high = np.percentile(sample, (2.5, 97.5))
    return EvalReport(
        styles=len(styles),
        images=sum(len(style.targets) for style in styles),
        base_loss=float(np.mean([*base_losses.values()])),
        loss=float(np.mean([*style_losses.values()])),
        gain=float(gains.mean()),
        gain_interval=(float(low), float(high)),
        shuffle_gap=gap,
        best_of_own=f"{wins} of {count}",
        variance_ratio=variance_ratio([pairs[style.name] for style in styles]) if count > 1 else None,
        by_style={style.name: (base_losses[style.name], style_losses[style.name]) for style in styles},
    )


def _pairs(model: TrainableModel, style: _Style) -> Pairs:
    values = model.store.drawn([SampledView(0, style.targets[0], style.references)], model.device)
    predict = next(unit for unit in model.live_units if PAIRS in unit.writes)
    return predict.run(model.models, values)[PAIRS]


def _loss(model: TrainableModel, style: _Style, pairs: Pairs) -> float:
    """Mean over a style's images and fixed noise levels, with a LoRA."""
    losses = []
    for row in style.targets:
        values = model.store.drawn([SampledView(0, row, style.references)] * len(QUANTILES), model.device)
        draw = Even([("eval", row, str(quantile)) for quantile in QUANTILES], QUANTILES)
        losses.append(
            run_units(model.live_units, model.models, {**values, PAIRS: pairs}, draw)["loss"].mean()
        )
    return float(torch.stack(losses).mean())


def variance_ratio(pairs: Sequence[Pairs]) -> float:
    """E |dW - mean|^2 / E |dW|^2 over styles, from their factors: no dW is made."""
    count = len(pairs)
    inner = torch.zeros(count, count, dtype=torch.float64)
    for name in pairs[0]:
        for first in range(count):
            for second in range(first, count):
                inner[first, second] += _product(pairs[first][name], pairs[second][name])
    whole = inner.diagonal().sum()
    inner = inner + inner.triu(1).T
    mean = inner.sum() / count
    return float((whole - mean) / whole) if whole > 0 else 0.0


def _product(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """<B A, B' A'>, of one style each: the trace of (B^T B') (A' A^T)."""
    down, up = (factor[0].double() for factor in first)
    down_2, up_2 = (factor[0].double() for factor in second)
    return float(((up.T @ up_2) * (down @ down_2.T)).sum())
