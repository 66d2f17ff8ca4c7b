"""What each expert of glyph's chain adds and costs: Style, Coarse, Fine, Bias, in one table.

    python -m limner.bases.make_instant --art art.npz --expert coarse --minutes 40 --out build/coarse
    python -m limner.bases.make_instant --art art.npz --expert fine --coarse build/coarse --out build/fine
    python -m benchmarks.quality.chain --art art.npz --kept build/kept  # what a bias is to leave as it is
    limner instant bias build/coarse build/fine --base glyph --prompts prompts.txt --keep build/kept ..
    python -m benchmarks.quality.chain --art art.npz --experts build/experts

On styles that none of them saw. Each LoRA is made of one reference, but where four are named. Noise, nouns
and times are the same in every row; intervals are bootstrapped over styles, or over images for drift, and
those of differences over pairs. A row that was measured before is read from ``--work``.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.outcome import RESULTS, save
from benchmarks.quality.instant import interval
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from limner.bases import instant_exam
from limner.bases.art import read_art
from limner.bases.demo_sets import TEST_NOUNS
from limner.bases.instant_exam import DEMO_STYLES, Sampling, StyleSet, exam, generate, own_set
from limner.bases.instant_experts import written
from limner.bases.judge import Judge
from limner.bases.make_instant import ENDINGS, frozen_parts
from limner.bases.style_sets import FAINT, Drawings, encode_captions, encode_images
from limner.bases.styles import draw
from limner.files import write_json
from limner.hyper.predictor import Predictor
from limner.hyper.train import joined, scaled
from limner.lora import file
from limner.lora.adapters import to_lora
from limner.models import rectified
from limner.models.registry import embedded_bases, embedded_predictors
from limner.nn.layers import per_sample
from limner.nn.layers.per_sample import Pairs

SAMPLING = Sampling(guidance=3.0, positive_only=False, steps=12)
UNGUIDED = Sampling(guidance=1.0, positive_only=False, steps=12)
"""Of images without a prompt: both branches are the same."""
FIRST_KEPT, KEPT_STYLES, KEPT_IMAGES = 3 * 10**14, 24, 5
"""Number of the first style that a bias is to leave as it is, how many of them, images of each."""
PORTION = 8
"""LoRAs of base images that are measured at once."""

BIAS_STRENGTH = 0.9
"""Of the bias in a row of its own: what it takes back of the drift falls less than what it costs."""
WHOLE = "Coarse + Fine + Bias"
AT_LESS = f"{WHOLE} at {BIAS_STRENGTH}"

Expert = Callable[[Tensor], Pairs]
"""(S, k, 3, side, side) uint8 -> a LoRA for each of S sets of references."""


class Bench:
    """The base, the judge, unseen styles, and images that the base itself painted."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.models, _ = frozen_parts(args.base, ENDINGS)
        art = read_art(args.art)
        facts = json.loads((args.base / "limner.json").read_text(encoding="utf-8"))
        drawings = Drawings(art, facts["concepts"], facts["resolution"])
        self.styles = exam(art, drawings, self.models, new=args.new, kinds=args.kinds)
        self.judge = Judge.load()
        self.nouns = [noun for noun in TEST_NOUNS if noun in self.judge.concept_names]
        base_images = generate(self.models, self.nouns, None, SAMPLING)
        self.base_images = torch.from_numpy(base_images).permute(0, 3, 1, 2)
        """(N, 3, S, S) uint8, of the test nouns."""

    def concepts(self, images: np.ndarray) -> list[str]:
        """What the judge takes images for."""
        return [self.judge.concept_names[n] for n in self.judge.concepts(images).argmax(1)]

    def features(self, images: np.ndarray) -> Tensor:
        """(N, S, S, 3) uint8 -> unit vectors of the judge's trunk: what is drawn, and how."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            return F.normalize(self.judge.net.trunk(pixels), dim=1)


@dataclass(frozen=True)
class Row:
    """Values of one expert, of each style or image."""

    style: list[float] = field(default_factory=list)
    """Share of images told as the demo's style, of other nouns than the reference's."""
    style_of_four: list[float] = field(default_factory=list)
    """The same, of four references that are read together."""
    style_of_four_joined: list[float] = field(default_factory=list)
    """The same, of four that are read alone and whose LoRAs are joined, as the published models do it."""
    nouns: list[float] = field(default_factory=list)
    """Share told as the noun that was asked for."""
    intrusion: list[float] = field(default_factory=list)
    """Share told as the reference's noun, where another was asked for."""
    pixels: list[float] = field(default_factory=list)
    """Distance of images of the reference's noun to the reference, in pixels."""
    silent_pixels: list[float] = field(default_factory=list)
    """The same of images without a prompt."""
    features: list[float] = field(default_factory=list)
    """Distance to the reference in the judge's features, without a prompt."""
    own_gain: list[float] = field(default_factory=list)
    """What the LoRA takes off the loss of its reference."""
    silent_gain: list[float] = field(default_factory=list)
    """The same with empty captions."""
    style_gain: list[float] = field(default_factory=list)
    """What it takes off the loss of other nouns in the style."""
    drift: list[float] = field(default_factory=list)
    """What the LoRA of one image of the base's own adds to the loss of another."""
    image_drift: list[float] = field(default_factory=list)
    """How far it leads an image of another noun away from what the base paints, in pixels."""


@torch.no_grad()
def measure(bench: Bench, expert: Expert | None) -> Row:
    """The row of an expert; None is the base."""
    row = Row()
    for style in bench.styles:
        _measure_style(bench, expert, style, row)
    rises, distances = drift(bench, expert)
    return replace(row, drift=rises, image_drift=distances)


def _measure_style(bench: Bench, expert: Expert | None, style: StyleSet, row: Row) -> None:
    singles = style.references[:, None]
    is_demo = style.name in DEMO_STYLES
    nouns = bench.nouns
    order = torch.arange(len(nouns)) % len(singles)
    images = generate(bench.models, nouns, expert and expert(singles[order]), SAMPLING)
    concepts = bench.concepts(images)
    row.nouns.append(float(np.mean([noun == concept for noun, concept in zip(nouns, concepts, strict=True)])))
    shown = [style.reference_nouns[n] for n in order]
    known = [pair for pair in zip(shown, concepts, strict=True) if pair[0] in bench.judge.concept_names]
    row.intrusion.append(float(np.mean([noun == concept for noun, concept in known])))
    if is_demo:
        row.style.append(_told_as(bench, images, style.name))
        four = style.references[None, :4]
        for shares, pairs in (
            (row.style_of_four, expert and expert(four)),
            (row.style_of_four_joined, expert and _apart(expert, four)),
        ):
            shares.append(_told_as(bench, generate(bench.models, nouns, pairs, SAMPLING), style.name))
    references = style.references.permute(0, 2, 3, 1).numpy()
    painted = generate(bench.models, style.reference_nouns, expert and expert(singles), SAMPLING)
    row.pixels.append(rms(painted, references))
    painted = generate(bench.models, [""] * len(singles), expert and expert(singles), UNGUIDED)
    row.silent_pixels.append(rms(painted, references))
    similarity = (bench.features(painted) * bench.features(references)).sum(1)
    row.features.append(float(1 - similarity.mean()))
    own = own_set(style, bench.models)
    row.own_gain.append(_gain(bench, own, expert and expert(singles)))
    silent = replace(own, text=encode_captions(bench.models, [""] * len(own.nouns)))
    row.silent_gain.append(_gain(bench, silent, expert and expert(singles)))
    row.style_gain.append(_gain(bench, style, expert and expert(singles[:1])))


def _told_as(bench: Bench, images: np.ndarray, name: str) -> float:
    return float((bench.judge.styles(images).argmax(1) == bench.judge.style_names.index(name)).mean())


def _gain(bench: Bench, style: StyleSet, pairs: Pairs | None) -> float:
    """What LoRAs take off the loss of a set."""
    base_loss = instant_exam.loss(bench.models, style, None)
    return base_loss - instant_exam.loss(bench.models, style, pairs) if pairs else 0.0


def rms(images: np.ndarray, others: np.ndarray) -> float:
    """Root of the mean square of the difference of pixels, of 1, averaged over images."""
    difference = (images.astype(np.float32) - others.astype(np.float32)) / 255
    return float(np.sqrt((difference**2).mean((1, 2, 3))).mean())


def drift(bench: Bench, expert: Expert | None) -> tuple[list[float], list[float]]:
    """How far LoRAs of the base's own images lead away from what the base paints, of each image.

    Returns:
        By how much the loss of *another* of its images rises; and how far the image that is painted of that
        noun, from the same noise, is from the base's own.
    """
    images, count = bench.base_images, len(bench.base_images)
    if expert is None:
        return [0.0] * count, [0.0] * count
    turn = torch.arange(count).roll(-7)  # reference n stands beside target n + 7: another noun
    rises = []
    for rows in torch.arange(count).split(PORTION):
        targets = images[turn[rows]].float() / 255
        nouns = [bench.nouns[n] for n in turn[rows]]
        pairs = expert(images[rows][:, None])
        rises += _losses(bench, targets, nouns, pairs)
        rises[-len(rows) :] = [
            with_lora - without
            for with_lora, without in zip(
                rises[-len(rows) :], _losses(bench, targets, nouns, None), strict=True
            )
        ]
    painted = generate(bench.models, bench.nouns, expert(images[turn.argsort()][:, None]), SAMPLING)
    base = images.permute(0, 2, 3, 1).numpy()
    return rises, [rms(image[None], other[None]) for image, other in zip(painted, base, strict=True)]


def _losses(bench: Bench, targets: Tensor, nouns: Sequence[str], pairs: Pairs | None) -> list[float]:
    """Loss of each target, at four times."""
    latents = encode_images(bench.models["vae"], targets).repeat_interleave(4, 0)
    text = {
        name: states.repeat_interleave(4, 0) for name, states in encode_captions(bench.models, nouns).items()
    }
    times = rectified.shifted((torch.arange(4) + 0.5) / 4, 1.0).repeat(len(targets))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    with per_sample.bound(bench.models["transformer"], pairs):
        losses = instant_exam.losses(bench.models, latents, noise, times, text)
    return losses.view(-1, 4).mean(1).tolist()


def write_kept(args: argparse.Namespace) -> None:
    """A folder of styles that neither the experts were trained on nor the exam has, with captions."""
    facts = json.loads((args.base / "limner.json").read_text(encoding="utf-8"))
    drawings = Drawings(read_art(args.art), facts["concepts"], facts["resolution"])
    number, count = FIRST_KEPT, 0
    while count < KEPT_STYLES:
        images = drawings.images(draw(number), KEPT_IMAGES, 0, wide=False)
        number += 1
        if torch.cat([*images.references[:2]]).std(0).mean() <= FAINT:
            continue
        folder = args.kept / f"{count:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (images.references * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for place, (image, noun) in enumerate(zip(pixels, images.reference_nouns, strict=True)):
            Image.fromarray(image).save(folder / f"{place}.png")
            (folder / f"{place}.txt").write_text(noun, encoding="utf-8")
        count += 1


def experts_of(bench: Bench, folder: Path, style: Path) -> dict[str, Callable[[], Expert | None]]:
    """Row -> reads its expert, in the chain's order."""
    vae = bench.models["vae"]

    def predictors(*names: str) -> list[Predictor]:
        paths = [style if name == "style" else folder / f"{name}.safetensors" for name in names]
        return [Predictor.load(path) for path in paths]

    def at_one(predictor: Predictor) -> Predictor:
        predictor.config = replace(predictor.config, strength=1.0)
        return predictor

    def of(*names: str, bias: float = 0.0) -> Expert:
        chain_of_names = [at_one(predictor) for predictor in predictors(*names)]
        change = scaled(static(folder / "bias.safetensors"), bias) if bias else None

        def expert(references: Tensor) -> Pairs:
            pairs = written(chain_of_names, vae, references)
            return joined([pairs, expanded(change, len(references))]) if change else pairs

        return expert

    return {
        "base": lambda: None,
        "Style": lambda: of("style"),
        "Coarse": lambda: of("coarse"),
        "Coarse + Fine": lambda: of("coarse", "fine"),
        WHOLE: lambda: of("coarse", "fine", bias=1.0),
        AT_LESS: lambda: of("coarse", "fine", bias=BIAS_STRENGTH),
    }


def _apart(expert: Expert, references: Tensor) -> Pairs:
    """A LoRA of each reference, joined along the rank with equal shares, as the published models do it."""
    count = references.shape[1]
    parts = [expert(references[:, n : n + 1]) for n in range(count)]
    return joined([{name: (down, up / count) for name, (down, up) in part.items()} for part in parts])


def static(path: Path) -> Pairs:
    """A LoRA file of glyph as a pair of one style."""
    changes = file.read(path, "flux").components["transformer"]
    factors = {name: to_lora(change) for name, change in changes.items()}
    return {name: (pair.down[None], pair.up[None]) for name, pair in factors.items()}


def expanded(pairs: Pairs, count: int) -> Pairs:
    """The LoRA of one style for ``count`` of them."""
    return {
        name: (down.expand(count, -1, -1), up.expand(count, -1, -1)) for name, (down, up) in pairs.items()
    }


def change(rows: Mapping[str, Row], first: str, second: str, column: str) -> list[float]:
    """Mean of what a column rises from one row to another, and its interval over pairs."""
    before, after = (getattr(rows[name], column) for name in (first, second))
    return interval([late - early for early, late in zip(before, after, strict=True)])


def story(rows: Mapping[str, Row]) -> dict[str, Any]:
    """What the chain is said to do, as numbers."""
    chain = "Coarse + Fine"
    steps = (("Style", "Coarse"), ("Coarse", chain), (chain, WHOLE), (chain, AT_LESS))
    columns = [name for name in asdict(rows["Style"]) if "four" not in name]
    means = {
        name: {key: np.mean(values) for key, values in asdict(row).items()} for name, row in rows.items()
    }
    return {
        "rises": {
            f"{first} -> {second}": {column: change(rows, first, second, column) for column in columns}
            for first, second in steps
        },
        **{
            f"{word} of, {row}": {column: 1 - means[row][column] / means[chain][column] for column in columns}
            for row in (WHOLE, AT_LESS)
            for word, columns in (
                ("Bias takes back", ("drift", "image_drift")),
                ("Bias costs", ("own_gain", "silent_gain", "style_gain")),
            )
        },
    }


def measured(bench: Bench, args: argparse.Namespace) -> dict[str, Row]:
    """All rows, or those that are named; each is kept as soon as it is measured."""
    rows = {}
    args.work.mkdir(parents=True, exist_ok=True)
    for name, read in experts_of(bench, args.experts, args.style).items():
        path = args.work / f"{name}.json"
        if path.exists():
            rows[name] = Row(**json.loads(path.read_text(encoding="utf-8")))
        elif not args.rows or name in args.rows:
            rows[name] = measure(bench, read())
            write_json(path, asdict(rows[name]))
    return rows


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description="Measure glyph's chain of experts.")
    parser.add_argument("--art", type=Path, required=True, help="made by limner.bases.art")
    parser.add_argument("--experts", type=Path, help="folder of coarse, fine, bias")
    parser.add_argument("--kept", type=Path, help="write styles for `limner instant bias --keep`, and end")
    parser.add_argument("--base", type=Path, default=embedded_bases()["glyph"])
    parser.add_argument("--style", type=Path, default=embedded_predictors()["glyph"])
    parser.add_argument("--new", type=int, default=8, help="styles of kinds that training has")
    parser.add_argument("--kinds", type=int, default=1, help="styles of each kind that it has not")
    parser.add_argument("--rows", nargs="*", default=(), help="measure these alone, and save no table")
    parser.add_argument("--work", type=Path, default=Path("build/chain-bench"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.kept:
        write_kept(args)
        return
    if args.experts is None:
        parser.error("--experts is missing: the folder of coarse, fine and bias")
    torch.manual_seed(0)
    bench = Bench(args)
    rows = measured(bench, args)
    if args.rows:
        return
    paths = {
        "style": args.style,
        **{name: args.experts / f"{name}.safetensors" for name in ("coarse", "fine")},
    }
    training = {name: Predictor.load(path).record for name, path in paths.items()}
    table = {
        name: {column: interval(values) for column, values in asdict(row).items()}
        for name, row in rows.items()
    }
    facts = {"styles": len(bench.styles), "training": training, "rows": table, "story": story(rows)}
    save("chain", facts, args.out)


if __name__ == "__main__":
    main()
