"""How good an embedded base is: its autoencoder, its concepts, its styles, on fixed prompts and seeds.

``python -m benchmarks.quality.base_quality --base FOLDER --judge FOLDER --art art.npz [--device cuda]``.
Pictures come from stock diffusers; what they show is told by ``limner.bases.judge``, whose own figures on
real drawings that it never saw stand in the table. Leaves JSON, a contact sheet, and a table with the bars.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.outcome import RESULTS, save, table
from diffusers import FluxPipeline
from PIL import Image

from limner.bases.art import TRAINED_STYLES, Art, nouns, read_art
from limner.bases.captions import Appearance
from limner.bases.judge import Judge, style_scores
from limner.bases.latents import drawings, held_out
from limner.bases.looks import render
from limner.bases.parts import SIZES
from limner.bases.train_vae import psnr, validation_images_of

BARS = {
    128: {"psnr_mean": 27, "psnr_p10": 24, "concept": 0.70, "held_out": 0.50, "style": 0.80},
    64: {"psnr_mean": 24, "concept": 0.60, "held_out": 0.30, "style": 0.70},
}
"""By picture side: what a base from a GPU must reach, and one made by processors alone."""
JUDGE_BAR = 0.90
RISE_BAR = 0.02
"""Validation loss at the end above its minimum, at most."""
SHEET_COLUMNS = 16


@dataclass(frozen=True)
class Ask:
    """One picture to be made."""

    noun: str
    style: str
    seed: int

    @property
    def prompt(self) -> str:
        """One of the forms of the base's captions."""
        return f"{self.style} style {self.noun}"


@dataclass(frozen=True)
class Way:
    """How pictures are made."""

    steps: int
    guidance: float
    batch: int
    side: int
    text_length: int


@torch.no_grad()
def generate(pipe: Any, asks: Sequence[Ask], way: Way) -> np.ndarray:
    """(N, side, side, 3) uint8; each picture has its own seed, whatever the batch."""
    images_list = []
    for start in range(0, len(asks), way.batch):
        asks_batch = asks[start : start + way.batch]
        guidance_options = {"negative_prompt": [""] * len(asks_batch), "true_cfg_scale": way.guidance}
        images = pipe(
            prompt=[ask.prompt for ask in asks_batch],
            **(guidance_options if way.guidance > 1 else {}),
            num_inference_steps=way.steps,
            width=way.side,
            height=way.side,
            max_sequence_length=way.text_length,
            generator=[torch.Generator().manual_seed(ask.seed) for ask in asks_batch],
            output_type="pil",
        ).images
        images_list += [np.asarray(image.convert("RGB")) for image in images]
        sys.stderr.write(f"{len(images_list)} of {len(asks)} pictures\n")
    return np.stack(images_list)


def real(art: Art, asks: Sequence[Ask], side: int) -> tuple[np.ndarray, list[Ask]]:
    """The drawings that the asks speak of, on white, with the asks that have one: the judge's own test."""
    rows = {(str(c), str(s)): n for n, (c, s) in enumerate(zip(art.concept, art.style, strict=True))}
    asks_known = [ask for ask in asks if (ask.noun, ask.style) in rows]
    references = [rows[ask.noun, ask.style] for ask in asks_known]
    full = drawings(Art(art.rgba[references], art.style[references], art.concept[references]), side)
    pictures = torch.cat(
        [render(asks_batch, [Appearance()] * len(asks_batch)) for asks_batch in full.split(256)]
    )
    return (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy(), asks_known


def scores(judge: Judge, images: np.ndarray, asks: Sequence[Ask]) -> dict[str, Any]:
    """Shares of right concepts and styles, over all and for each style."""
    per_style = {}
    for style in dict.fromkeys(ask.style for ask in asks):
        rows = [n for n, ask in enumerate(asks) if ask.style == style]
        names = [asks[n].noun for n in rows]
        per_style[style] = {"pictures": len(rows), **style_scores(judge, images[rows], names, style)}
    whole = {
        key: sum(group[key] * group["pictures"] for group in per_style.values()) / len(asks)
        for key in ("concept", "style")
    }
    return {"pictures": len(asks), **whole, "per_style": per_style}


def losses(base: Path) -> dict[str, float]:
    """Validation loss of a base's training: last, least, and the rise between as a share.

    Of those rows whose held-out set is that of the last.
    """
    rows = json.loads((base / "training.json").read_text(encoding="utf-8"))["rows"]
    group = [row["held_out"] for row in rows if row.get("set") == rows[-1].get("set")]
    return {"end": group[-1], "minimum": min(group), "rise": group[-1] / min(group) - 1}


def asked(art: Art, wish: argparse.Namespace, asks_known: int) -> tuple[list[Ask], list[Ask]]:
    """Shown pairs of the first ``wish.concepts`` nouns; held-out pairs of all ``known`` nouns of the base."""
    pairs = set(zip(map(str, art.concept), map(str, art.style), strict=True))
    ask_pairs = [
        (n, Ask(noun, style, seed * 1_000_003 + n * 17 + k))
        for seed in range(wish.seeds)
        for n, noun in enumerate(list(nouns())[:asks_known])
        for k, style in enumerate(TRAINED_STYLES)
        if (noun, style) in pairs
    ]
    trained_asks = [ask for n, ask in ask_pairs if n < wish.concepts and not held_out(ask.noun, ask.style)]
    hidden = [ask for _, ask in ask_pairs if held_out(ask.noun, ask.style)]
    return trained_asks, hidden


def sheet(path: Path, images: np.ndarray, count: int) -> None:
    """Pictures row by row, left to right, spread evenly over all of them."""
    references = images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]
    tile = images.shape[1] + 2
    page = Image.new("RGB", (SHEET_COLUMNS * tile, -(-len(references) // SHEET_COLUMNS) * tile), (90, 90, 90))
    for n, image in enumerate(references):
        page.paste(Image.fromarray(image), (n % SHEET_COLUMNS * tile + 1, n // SHEET_COLUMNS * tile + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def measure(wish: argparse.Namespace) -> dict[str, Any]:
    """Everything that the table says, and the settings that it was measured with."""
    facts = json.loads((wish.base / "limner.json").read_text(encoding="utf-8"))
    guidance = facts["guidance"] if wish.guidance is None else wish.guidance
    way = Way(wish.steps, guidance, wish.batch, facts["resolution"], facts["text_length"])
    pipe: Any = FluxPipeline.from_pretrained(
        wish.base, torch_dtype=getattr(torch, wish.precision), local_files_only=True
    )
    pipe = pipe.to(wish.device)
    pipe.set_progress_bar_config(disable=True)
    judge = Judge.load(wish.judge, wish.device)
    art = read_art(wish.art)
    asks_known = min(facts.get("concepts", 300), len(judge.concept_names))
    trained_asks, hidden = asked(art, wish, asks_known)
    start = time.monotonic()
    images = generate(pipe, trained_asks + hidden, way)
    seconds = time.monotonic() - start
    sheet(wish.sheet, images[: len(trained_asks)], 256)
    sheet(wish.sheet.with_stem(wish.sheet.stem + "-held-out"), images[len(trained_asks) :], 128)
    size = next(size for size in SIZES.values() if size.side == way.side)
    vae = pipe.vae.float()
    judge_record = json.loads((wish.judge / "judge.json").read_text(encoding="utf-8"))["figures"]
    return {
        "settings": {
            **vars(way),
            "seeds": wish.seeds,
            "concepts": wish.concepts,
            "precision": wish.precision,
        },
        "known_concepts": asks_known,
        "pictures_per_second": len(images) / seconds,
        "vae": psnr(vae, validation_images_of(wish.art, size).to(wish.device)),
        "shown": scores(judge, images[: len(trained_asks)], trained_asks),
        "held_out": scores(judge, images[len(trained_asks) :], hidden),
        "real": scores(judge, *real(art, trained_asks + hidden, judge.side)),
        "judge": {name: judge_record[name] for name in ("plain", "grounds", "all")},
        "loss": losses(wish.base),
    }


def verdicts(figures: dict[str, Any]) -> list[list[str]]:
    """Rows of the table: what, figure, bar, whether it is met."""
    bars = BARS[figures["settings"]["side"]]
    groups = [figures["shown"], figures["held_out"]]
    count = sum(group["pictures"] for group in groups)
    style = sum(group["style"] * group["pictures"] for group in groups) / count
    judge = figures["judge"]["plain"]
    bar_lines = [
        ("VAE PSNR on unseen styles, mean (dB)", figures["vae"]["psnr_mean"], bars["psnr_mean"]),
        ("VAE PSNR on unseen styles, p10 (dB)", figures["vae"]["psnr_p10"], bars.get("psnr_p10", 0)),
        ("concept top-1, shown pairs", figures["shown"]["concept"], bars["concept"]),
        ("concept top-1, held-out pairs", figures["held_out"]["concept"], bars["held_out"]),
        ("style accuracy", style, bars["style"]),
        ("judge: concept top-1, drawings kept from it", judge["concept"], JUDGE_BAR),
        ("judge: style accuracy, drawings kept from it", judge["style"], JUDGE_BAR),
    ]
    rows = [[name, _shown(value), f">= {_shown(bar)}", _met(value >= bar)] for name, value, bar in bar_lines]
    rise = figures["loss"]["rise"]
    rows.append(
        ["validation loss, end above minimum", f"{rise:.2%}", f"<= {RISE_BAR:.0%}", _met(rise <= RISE_BAR)]
    )
    return rows


def _shown(value: float) -> str:
    return f"{value:.1%}" if value <= 1 else f"{value:.1f}"


def _met(good: bool) -> str:  # noqa: FBT001
    return "yes" if good else "NO"


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description="Measure an embedded base.")
    parser.add_argument("--base", type=Path, required=True, help="pipeline folder, with its training.json")
    parser.add_argument("--judge", type=Path, required=True, help="folder of limner.bases.judge")
    parser.add_argument("--art", type=Path, required=True)
    parser.add_argument("--concepts", type=int, default=120)
    parser.add_argument("--guidance", type=float, help="true_cfg_scale; by default the base's own")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2, help="pictures per prompt")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--sheet", type=Path, default=RESULTS / "base_quality.png")
    wish = parser.parse_args()
    figures = measure(wish)
    rows = verdicts(figures)
    save("base_quality", {**figures, "table": rows}, wish.out)
    print(table(["what", "figure", "bar", "met"], rows))


if __name__ == "__main__":
    main()
