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
from limner.graph.unit import Split, run, split
from limner.models.flux.family import FAMILY
from limner.models.rectified import LossForm
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
    "time_width": 1.0,
    "time_shift": 1.0,
    "shift_range": (),
    "guidance": None,
    "noise_range": (0.0, 1.0),
    "loss_form": LossForm(),
}
"""Uniform in time: a logit-normal seldom draws much noise, and there the base chose the wrong hand."""


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
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


class OptimizerPair(torch.optim.Optimizer):
    """Two optimizers as one, each over its own weights."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self.optimizers = (first, second)
        super().__init__([*first.param_groups, *second.param_groups], {})

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of each."""
        for optimizer in self.optimizers:
            optimizer.step(closure)


def optimizer_of(models: Mapping[str, nn.Module], config: DenoiserConfig) -> OptimizerPair:
    """Muon (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982) for the blocks' matrices, AdamW elsewhere.

    On this base Muon reaches a loss of AdamW with two thirds of the images. Modulations start at zero and
    have many rows for one token: they stay with AdamW, as do embeddings and what is not a matrix.
    """
    blocks, rest = [], []
    for model, name, weight in (
        (m, n, p) for m, module in models.items() for n, p in module.named_parameters()
    ):
        in_blocks = model == "transformer" and "blocks." in name and ".norm" not in name
        (blocks if in_blocks and weight.ndim == 2 else rest).append(weight)
    fused = config.device.type == "cuda"
    muon = torch.optim.Muon(blocks, config.rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, config.rate / 2, betas=(0.9, 0.99), weight_decay=0.02, fused=fused)
    pair = OptimizerPair(muon, adam)
    for group in pair.param_groups:
        group["initial_lr"] = group["lr"]
    return pair


def train(
    models: Mapping[str, nn.Module],
    train_values: Mapping[str, Tensor],
    held_out_values: Mapping[str, Tensor],
    config: DenoiserConfig,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train in place; afterwards the models hold the averaged weights.

    Args:
        models: ``transformer``, ``text_encoder``, ``text_encoder_2`` on the device.
        train_values: Boundary values of every training variant, (N, ...).
        held_out_values: The same for (concept, style) pairs that are never trained on.
        config: See :class:`DenoiserConfig`.
        save: Called now and then with the record so far, while the models hold the averaged weights.

    Returns:
        The record of the run: throughput and held-out losses.
    """
    cut = live_cut()
    parameters = [p for name in TRAINED for p in models[name].parameters()]
    for parameter in parameters:
        parameter.requires_grad_()
    average = Average(parameters, config.decay)
    clock = Clock(config.minutes * 60)
    counter = ImageCount()
    loop = Fit(
        parameters=parameters,
        optimizer=optimizer_of(models, config),
        rate=lambda step: min(1.0, (step + 1) / 200) * clock.cosine(1 / 3),
        clip=1.0,
        average=average,
    )
    curve = _losses(models, cut, train_values, config, counter)
    rows: list[dict[str, float]] = []
    next_share = 0.0
    for step in fit(loop, curve, start=0, steps=10**9):
        if clock.share() >= next_share or clock.over():
            average.swap()
            measurement = measure(models, cut, train_values, held_out_values, config)
            row = {
                "step": step.number,
                "images": counter.images,
                "seconds": clock.seconds(),
                "loss": step.loss,
                **measurement,
            }
            rows.append(row)
            _log(row)
            save({"rows": rows, "images_per_second": counter.images / clock.seconds(), "batch": config.batch})
            average.swap()
            next_share += 1 / 16
        if clock.over():
            break
    average.swap()
    return {"rows": rows, "images_per_second": counter.images / clock.seconds(), "batch": config.batch}


@dataclass
class ImageCount:
    """How many images have been trained on."""

    images: int = 0


def _losses(
    models: Mapping[str, nn.Module],
    cut: Split,
    train_values: Mapping[str, Tensor],
    config: DenoiserConfig,
    counter: ImageCount,
):  # noqa: ANN202
    generator = torch.Generator(config.device).manual_seed(config.seed)
    draw = DeviceRng(generator)
    choose = torch.Generator().manual_seed(config.seed)
    shares = torch.tensor([share for _, _, share in LENGTHS])

    def losses(step: int) -> Iterator[Tensor]:
        del step
        length, part, _ = LENGTHS[int(torch.multinomial(shares, 1, generator=choose))]
        count = max(1, int(config.batch * part))
        rows = torch.randint(
            len(train_values["latent_mean"]), (count,), generator=generator, device=config.device
        )
        counter.images += count
        with _compiled(length == 0):
            loss = _loss(models, cut, _rows(train_values, rows, length), draw, config).mean()
        yield loss

    return losses


def _compiled(often: bool) -> Any:  # noqa: FBT001
    """Only what runs often is worth a compilation of its own."""
    return torch.compiler.set_stance("default" if often else "force_eager")


def _rows(values: Mapping[str, Tensor], rows: Tensor, length: int) -> dict[str, Tensor]:
    width = values["t5_tokens"].shape[1]
    return {
        "latent_mean": values["latent_mean"][rows].float(),
        "latent_logvar": values["latent_logvar"][rows].float(),
        "clip_tokens": values["clip_tokens"][rows, :CLIP_SEEN].long(),
        "t5_tokens": nn.functional.pad(values["t5_tokens"][rows].long(), (0, max(width, length) - width)),
    }


def _loss(
    models: Mapping[str, nn.Module],
    cut: Split,
    values: Mapping[str, Tensor],
    draw: Any,
    config: DenoiserConfig,
) -> Tensor:
    with torch.autocast(config.device.type, torch.bfloat16, enabled=config.precision == torch.bfloat16):
        return run(cut.live, models, values, draw)["loss"]


def live_cut() -> Split:
    """What is computed in a step when the transformer and both text encoders learn."""
    trained: dict[str, int] = dict.fromkeys(TRAINED, 0)
    return split(tuple(unit.bind(**CONSTANTS) for unit in FAMILY.units), trained)


def measure(
    models: Mapping[str, nn.Module],
    cut: Split,
    train_values: Mapping[str, Tensor],
    held_out_values: Mapping[str, Tensor],
    config: DenoiserConfig,
) -> dict[str, float]:
    """Losses on held-out pairs and on what was shown, for a row of the record."""
    sets = (("held_out", held_out_values), ("shown", train_values))
    return {name: validation_loss(models, cut, values, config) for name, values in sets}


@torch.no_grad()
def validation_loss(
    models: Mapping[str, nn.Module],
    cut: Split,
    values: Mapping[str, Tensor],
    config: DenoiserConfig,
    *,
    limit: int = 512,
) -> float:
    """Mean loss at evenly spaced times and fixed noise over up to ``limit`` rows."""
    count = min(limit, len(values["latent_mean"]))
    rows = torch.linspace(0, len(values["latent_mean"]) - 1, count).long()
    times = (torch.arange(count) + 0.5) / count
    total = 0.0
    for start in range(0, count, 256):
        window = slice(start, start + 256)
        row_values = _rows(values, rows[window].to(values["latent_mean"].device), 0)
        draw = KeyedRng([("held-out", int(n)) for n in range(count)[window]])
        row_values["time"] = times[torch.randperm(count, generator=torch.Generator().manual_seed(0))][
            window
        ].to(config.device)
        with _compiled(False):
            total += float(_loss(models, cut, row_values, draw, config).sum())
    return total / count


def earlier(folder: Path | None, rows: list[dict[str, Any]], set_name: str) -> list[dict[str, Any]]:
    """The rows of the training that a base comes from, then ``rows``, counted on from there.

    A part of the training is what one call did. Captions and looks may differ from those of the part before,
    and then held-out losses are those of other pictures: rows whose ``set`` is the same may be compared.

    Args:
        folder: The base that was gone on from.
        rows: Of this part.
        set_name: :func:`fingerprint` of its held-out set.
    """
    if folder is None or not (folder / "training.json").exists():
        return [row | {"part": 1, "set": set_name} for row in rows]
    before = json.loads((folder / "training.json").read_text(encoding="utf-8"))["rows"]
    columns = ("step", "images", "seconds")
    part = {"part": before[-1]["part"] + 1, "set": set_name}
    return before + [row | {key: row[key] + before[-1][key] for key in columns} | part for row in rows]


def both_sets(
    art: Path, size: parts.Size, pipeline: Mapping[str, Any], variants: int, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Boundary values of what is trained on, in so many variants, and of held-out pairs, in four."""
    vae = pipeline["vae"].to(device).eval()
    return (
        build_set(art, size, vae, pipeline, variants=variants, from_held_out=False, device=device),
        build_set(art, size, vae, pipeline, variants=4, from_held_out=True, device=device),
    )


def fingerprint(held_out_values: Mapping[str, Tensor]) -> str:
    """Which pictures a held-out set has, told by their captions, which say all that was varied."""
    words = held_out_values["clip_tokens"].cpu().contiguous().numpy().astype("<i2").tobytes()
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
    args = parser.parse_args()
    device = torch.device(args.device)
    config = DenoiserConfig(
        minutes=args.minutes,
        batch=args.batch,
        rate=args.rate,
        decay=args.decay,
        device=device,
        precision=torch.float32 if args.fp32 else torch.bfloat16,
    )
    torch.manual_seed(config.seed)
    size = parts.SIZES[args.size]
    pipeline = parts.load_pipeline(args.init) if args.init else parts.fresh_pipeline(args.vae, size)
    models = {name: pipeline[name].float().to(device).train() for name in TRAINED}
    train_values, held_out_values = both_sets(args.art, size, pipeline, args.variants, device)
    if args.compiled:
        models["transformer"].compile_repeated_blocks(fullgraph=True, dynamic=False)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"

    def save(record: dict[str, Any]) -> None:
        parts.save_pipeline(args.out, pipeline | models, size, dtype=torch.bfloat16)
        rows = earlier(args.init, record["rows"], fingerprint(held_out_values))
        whole = {"device": name, "variants": args.variants, **record, "rows": rows}
        write_json(args.out / "training.json", whole)

    save(train(models, train_values, held_out_values, config, save))


if __name__ == "__main__":
    main()
