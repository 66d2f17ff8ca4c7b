"""Trains the embedded base's transformer and both text encoders, from scratch, by Limner's own path.

The same units, cut and loop as any run: ``models.flux.family`` says what a step is, ``split`` finds that with
three trained models only latents and token ids can be computed once, ``nn.loop`` turns the crank. What is
particular to a base is the size of the batch, a learning rate that falls with the clock, and text of
several lengths, so that the model reads a caption the same whether a tool pads it to 32 tokens or 512.

    python -m limner.bases.train_denoiser --art art.npz --vae out/vae --minutes 9 --device cuda --out out
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.bases import parts
from limner.bases.clock import Clock
from limner.bases.latents import build_set
from limner.files import write_json
from limner.graph.split import Split, split
from limner.graph.unit import run
from limner.models.flux.family import FAMILY
from limner.nn.loop import Average, Fit, fit
from limner.nn.rng import DeviceRng, KeyedRng

LENGTHS = ((0, 1.0, 0.94), (128, 0.5, 0.04), (512, 0.125, 0.02))
"""(T5 tokens, share of the batch, share of the steps); 0 stands for the base's own length."""
TRAINED = ("transformer", "text_encoder", "text_encoder_2")
CLIP_SEEN = 32
"""CLIP is causal and pools at the end token: what stands behind it cannot matter, so it is not computed."""
CONSTANTS: Mapping[str, Any] = {
    "text_length": 512,
    "patch": 2,
    "time_density": "uniform",
    "time_shift": 1.0,
    "shift_range": (),
    "guidance": None,
}
"""Uniform in time: a logit-normal seldom draws much noise, and there the base chose the wrong hand."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a person decides about a base's training."""

    minutes: float
    batch: int
    rate: float
    """Of the matrices inside the transformer's blocks; half as much elsewhere."""
    decay: float
    """Of the moving average of the weights, which is what ships."""
    device: torch.device
    precision: torch.dtype = torch.bfloat16
    seed: int = 0


class Pair(torch.optim.Optimizer):
    """Two optimizers as one, each over its own weights."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.both = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of each."""
        for each in self.both:
            each.step(closure)


def optimizer_of(models: Mapping[str, nn.Module], wish: Wish) -> Pair:
    """Muon (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982) for the blocks' matrices, AdamW elsewhere.

    On this base Muon reaches a loss of AdamW with two thirds of the images. Modulations start at zero and
    have many rows for one token: they stay with AdamW, as do embeddings and what is not a matrix.
    """
    blocks, others = [], []
    for model, name, each in ((m, n, p) for m, own in models.items() for n, p in own.named_parameters()):
        inside = model == "transformer" and "blocks." in name and ".norm" not in name
        (blocks if inside and each.ndim == 2 else others).append(each)
    fused = wish.device.type == "cuda"
    muon = torch.optim.Muon(blocks, wish.rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, wish.rate / 2, betas=(0.9, 0.99), weight_decay=0.02, fused=fused)
    both = Pair(muon, adam)
    for group in both.param_groups:
        group["initial_lr"] = group["lr"]
    return both


def train(
    models: Mapping[str, nn.Module],
    shown: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    wish: Wish,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train in place; afterwards the models hold the averaged weights.

    Args:
        models: ``transformer``, ``text_encoder``, ``text_encoder_2`` on the device.
        shown: Boundary values of every training variant, (N, ...).
        kept: The same for (concept, style) pairs that are never trained on.
        wish: See :class:`Wish`.
        save: Called now and then with the record so far, while the models hold the averaged weights.

    Returns:
        The record of the run: throughput and held-out losses.
    """
    cut = live_cut()
    parameters = [p for name in TRAINED for p in models[name].parameters()]
    for parameter in parameters:
        parameter.requires_grad_()
    average = Average(parameters, wish.decay)
    clock = Clock(wish.minutes * 60)
    seen = Seen()
    setting = Fit(
        parameters=parameters,
        optimizer=optimizer_of(models, wish),
        rate=lambda step: min(1.0, (step + 1) / 200) * clock.cosine(1 / 3),
        clip=1.0,
        average=average,
    )
    losses = _losses(models, cut, shown, wish, seen)
    rows: list[dict[str, float]] = []
    due = 0.0
    for step in fit(setting, losses, start=0, steps=10**9):
        if clock.share() >= due or clock.over():
            average.swap()
            measured = measure(models, cut, shown, kept, wish)
            row = {
                "step": step.number,
                "images": seen.images,
                "seconds": clock.seconds(),
                "loss": step.loss,
                **measured,
            }
            rows.append(row)
            _log(row)
            save({"rows": rows, "images_per_second": seen.images / clock.seconds(), "batch": wish.batch})
            average.swap()
            due += 1 / 16
        if clock.over():
            break
    average.swap()
    return {"rows": rows, "images_per_second": seen.images / clock.seconds(), "batch": wish.batch}


@dataclass
class Seen:
    """How many images have been trained on."""

    images: int = 0


def _losses(models: Mapping[str, nn.Module], cut: Split, shown: Mapping[str, Tensor], wish: Wish, seen: Seen):  # noqa: ANN202
    generator = torch.Generator(wish.device).manual_seed(wish.seed)
    draw = DeviceRng(generator)
    choose = torch.Generator().manual_seed(wish.seed)
    shares = torch.tensor([share for _, _, share in LENGTHS])

    def losses(step: int) -> Iterator[Tensor]:
        del step
        length, part, _ = LENGTHS[int(torch.multinomial(shares, 1, generator=choose))]
        count = max(1, int(wish.batch * part))
        rows = torch.randint(len(shown["latent_mean"]), (count,), generator=generator, device=wish.device)
        seen.images += count
        with _compiled(length == 0):
            loss = _loss(models, cut, _rows(shown, rows, length), draw, wish).mean()
        yield loss

    return losses


def _compiled(often: bool) -> Any:  # noqa: FBT001
    """Only what runs often is worth a compilation of its own."""
    return torch.compiler.set_stance("default" if often else "force_eager")


def _rows(values: Mapping[str, Tensor], rows: Tensor, length: int) -> dict[str, Tensor]:
    own = values["t5_tokens"].shape[1]
    return {
        "latent_mean": values["latent_mean"][rows].float(),
        "latent_logvar": values["latent_logvar"][rows].float(),
        "clip_tokens": values["clip_tokens"][rows, :CLIP_SEEN].long(),
        "t5_tokens": nn.functional.pad(values["t5_tokens"][rows].long(), (0, max(own, length) - own)),
    }


def _loss(
    models: Mapping[str, nn.Module], cut: Split, values: Mapping[str, Tensor], draw: Any, wish: Wish
) -> Tensor:
    with torch.autocast(wish.device.type, torch.bfloat16, enabled=wish.precision == torch.bfloat16):
        return run(cut.live, models, values, draw)["loss"]


def live_cut() -> Split:
    """What is computed in a step when the transformer and both text encoders learn."""
    trained: dict[str, int] = dict.fromkeys(TRAINED, 0)
    return split(tuple(unit.bind(**CONSTANTS) for unit in FAMILY.units), trained)


def measure(
    models: Mapping[str, nn.Module],
    cut: Split,
    shown: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    wish: Wish,
) -> dict[str, float]:
    """Losses on held-out pairs and on what was shown, for a row of the record."""
    named = (("held_out", kept), ("shown", shown))
    return {name: held_out_loss(models, cut, values, wish) for name, values in named}


@torch.no_grad()
def held_out_loss(
    models: Mapping[str, nn.Module], cut: Split, values: Mapping[str, Tensor], wish: Wish, *, most: int = 512
) -> float:
    """Mean loss at evenly spaced times and fixed noise over up to ``most`` rows."""
    count = min(most, len(values["latent_mean"]))
    rows = torch.linspace(0, len(values["latent_mean"]) - 1, count).long()
    times = (torch.arange(count) + 0.5) / count
    total = 0.0
    for start in range(0, count, 256):
        some = slice(start, start + 256)
        given = _rows(values, rows[some].to(values["latent_mean"].device), 0)
        draw = KeyedRng([("held-out", int(n)) for n in range(count)[some]])
        given["time"] = times[torch.randperm(count, generator=torch.Generator().manual_seed(0))][some].to(
            wish.device
        )
        with _compiled(False):
            total += float(_loss(models, cut, given, draw, wish).sum())
    return total / count


def earlier(folder: Path | None, rows: list[dict[str, Any]], asked: str) -> list[dict[str, Any]]:
    """The rows of the training that a base comes from, then ``rows``, counted on from there.

    A part of the training is what one call did. Captions and looks may differ from those of the part before,
    and then held-out losses are those of other pictures: rows whose ``set`` is the same may be compared.

    Args:
        folder: The base that was gone on from.
        rows: Of this part.
        asked: :func:`fingerprint` of its held-out set.
    """
    if folder is None or not (folder / "training.json").exists():
        return [row | {"part": 1, "set": asked} for row in rows]
    before = json.loads((folder / "training.json").read_text(encoding="utf-8"))["rows"]
    counted = ("step", "images", "seconds")
    part = {"part": before[-1]["part"] + 1, "set": asked}
    return before + [row | {key: row[key] + before[-1][key] for key in counted} | part for row in rows]


def both_sets(
    art: Path, size: parts.Size, made: Mapping[str, Any], variants: int, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Boundary values of what is trained on, in so many variants, and of held-out pairs, in four."""
    vae = made["vae"].to(device).eval()
    return (
        build_set(art, size, vae, made, variants=variants, kept=False, device=device),
        build_set(art, size, vae, made, variants=4, kept=True, device=device),
    )


def fingerprint(kept: Mapping[str, Tensor]) -> str:
    """Which pictures a held-out set has, told by their captions, which say all that was varied."""
    words = kept["clip_tokens"].cpu().contiguous().numpy().astype("<i2").tobytes()
    return hashlib.sha256(words).hexdigest()[:8]


def _log(row: Mapping[str, float]) -> None:
    import sys

    sys.stderr.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")
    sys.stderr.flush()


def main() -> None:
    """Read the command line, train, save a whole pipeline folder."""
    parser = argparse.ArgumentParser(description="Train the embedded base's transformer and text encoders.")
    parser.add_argument("--art", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained VAE")
    parser.add_argument("--init", type=Path, help="pipeline folder to go on from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=parts.SIZES, default="gpu")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.9995)
    parser.add_argument("--variants", type=int, default=128, help="augmented latents of each training image")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fp32", action="store_true", help="for CPUs without bf16 instructions")
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    said = parser.parse_args()
    device = torch.device(said.device)
    wish = Wish(
        minutes=said.minutes,
        batch=said.batch,
        rate=said.rate,
        decay=said.decay,
        device=device,
        precision=torch.float32 if said.fp32 else torch.bfloat16,
    )
    torch.manual_seed(wish.seed)
    size = parts.SIZES[said.size]
    made = parts.load_pipeline(said.init) if said.init else parts.fresh_pipeline(said.vae, size)
    models = {name: made[name].float().to(device).train() for name in TRAINED}
    shown, kept = both_sets(said.art, size, made, said.variants, device)
    if said.compiled:
        models["transformer"].compile_repeated_blocks(fullgraph=True, dynamic=False)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"

    def save(record: dict[str, Any]) -> None:
        parts.save_pipeline(said.out, made | models, size, dtype=torch.bfloat16)
        rows = earlier(said.init, record["rows"], fingerprint(kept))
        whole = {"device": name, "variants": said.variants, **record, "rows": rows}
        write_json(said.out / "training.json", whole)

    save(train(models, shown, kept, wish, save))


if __name__ == "__main__":
    main()
