"""Trains the embedded base's autoencoder on the art in every look of the base.

    python -m limner.bases.train_vae --art art.npz --minutes 6 --device cuda --out out/vae

The styles ``fluent3d`` and ``ink`` are never shown, so that the figures on them are those of unseen styles.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from limner.bases.art import TRAINED_STYLES, UNSEEN_STYLES, read_art
from limner.bases.captions import Choice, choose
from limner.bases.clock import Clock
from limner.bases.latents import drawings
from limner.bases.looks import paint
from limner.bases.parts import SIZES, Size, fresh_vae
from limner.files import write_json
from limner.nn.loop import Average, Fit, fit

KL = 2e-6
"""Weight of the divergence per latent number: enough to keep latents near unit scale, not to blur them."""


@dataclass(frozen=True)
class Wish:
    """Minutes, images per step, peak learning rate, decay of the averaged weights, bf16 or fp32."""

    minutes: float
    batch: int
    rate: float
    decay: float
    device: torch.device
    precision: torch.dtype = torch.bfloat16


def vae_loss(vae: Any, pictures: Tensor) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> (B,): L1, L2, L2 of coarse pictures and slopes, and a little divergence."""
    posterior = vae.encode(pictures).latent_dist
    made = vae.decode(posterior.sample()).sample.float()
    wrong = made - pictures
    coarse = F.avg_pool2d(wrong, 4)
    slopes = torch.cat([wrong.diff(dim=-1).flatten(1), wrong.diff(dim=-2).flatten(1)], dim=1)
    loss = wrong.abs().flatten(1).mean(1) + 4 * wrong.square().flatten(1).mean(1)
    loss = loss + 2 * coarse.square().flatten(1).mean(1) + 2 * slopes.square().mean(1)
    return loss + KL * posterior.kl().float()


def train(vae: Any, shown: Tensor, wish: Wish, unseen: Tensor) -> list[dict[str, float]]:
    """Train in place on varied drawings (N, 4, S, S); ``vae`` ends with its averaged weights."""
    parameters = [each for each in vae.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, wish.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=wish.device.type == "cuda"
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = wish.rate
    average = Average(parameters, wish.decay)
    clock = Clock(wish.minutes * 60)
    setting = Fit(
        parameters=parameters,
        optimizer=optimizer,
        rate=lambda step: min(1.0, (step + 1) / 100) * clock.cosine(0.1),
        clip=1.0,
        average=average,
    )
    stepper = Pictures(shown, wish)
    rows: list[dict[str, float]] = []
    due = 0.0
    for step in fit(setting, lambda number: _losses(vae, stepper, number, wish), start=0, steps=10**9):
        if clock.share() >= due or clock.over():
            due += 1 / 12
            average.swap()
            rows.append(
                {
                    "step": step.number,
                    "images": step.number * wish.batch,
                    "seconds": clock.seconds(),
                    **psnr(vae, unseen),
                }
            )
            average.swap()
            sys.stderr.write(json.dumps({key: round(value, 3) for key, value in rows[-1].items()}) + "\n")
        if clock.over():
            break
    average.swap()
    return rows


class Pictures:
    """Augmented pictures, made on the device a few batches at a time."""

    AHEAD = 8

    def __init__(self, shown: Tensor, wish: Wish) -> None:
        self.drawings, self.wish = shown.to(wish.device), wish
        self._made: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """(batch, 3, S, S) in [-1, 1]."""
        if step not in self._made:
            self._made = {}
            count = self.wish.batch * self.AHEAD
            seeds = range(step * self.wish.batch, step * self.wish.batch + count)
            rows = torch.randint(len(self.drawings), (count,), generator=torch.Generator().manual_seed(step))
            choices = [choose(seed) for seed in seeds]
            some = self.drawings[rows.to(self.wish.device)]
            made = (
                torch.cat([paint(some[n : n + 512], choices[n : n + 512]) for n in range(0, count, 512)]) * 2
                - 1
            )
            self._made = {step + n: each for n, each in enumerate(made.split(self.wish.batch))}
        return self._made.pop(step)


def _losses(vae: Any, pictures: Pictures, step: int, wish: Wish) -> Iterator[Tensor]:
    batch = pictures.batch(step)
    if wish.device.type == "cuda":
        batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.autocast(wish.device.type, torch.bfloat16, enabled=wish.precision == torch.bfloat16):
        yield vae_loss(vae, batch).mean()


@torch.no_grad()
def reconstruct(vae: Any, pictures: Tensor) -> Tensor:
    """Through the mean of the posterior and back, in [-1, 1]."""
    return torch.cat(
        [vae.decode(vae.encode(some).latent_dist.mean).sample.clamp(-1, 1) for some in pictures.split(64)]
    )


def psnr(vae: Any, pictures: Tensor) -> dict[str, float]:
    """Mean and 10th percentile over pictures in [-1, 1], in dB against a range of 1."""
    wrong = (reconstruct(vae, pictures) - pictures).square().flatten(1).mean(1) / 4
    each = -10 * torch.log10(wrong.clamp(min=1e-10))
    return {"psnr_mean": float(each.mean()), "psnr_p10": float(each.quantile(0.1))}


def unseen_pictures(art: Path, size: Size, count: int = 96) -> Tensor:
    """Pictures of the styles that the autoencoder never saw, on white, in [-1, 1]."""
    drawn = read_art(art).only(UNSEEN_STYLES, size.concepts)
    rows = torch.linspace(0, len(drawn.rgba) - 1, min(count, len(drawn.rgba))).long()
    shown = drawings(drawn, size.side)[rows]
    return paint(shown, [Choice(scale=1.0)] * len(shown)) * 2 - 1


def normalise(vae: Any, pictures: Tensor) -> None:
    """Set shift and scale so that latents have mean 0 and deviation 1 over ``pictures``."""
    with torch.no_grad():
        latents = torch.cat([vae.encode(some).latent_dist.mean.float() for some in pictures.split(128)])
    vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())


def main() -> None:
    """Train, normalise, save in bf16 with the record of the run."""
    parser = argparse.ArgumentParser(description="Train the embedded base's autoencoder.")
    parser.add_argument("--art", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=SIZES, default="gpu")
    parser.add_argument("--init", type=Path, help="go on from this autoencoder, its decoder only")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.999)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fp32", action="store_true", help="for CPUs without bf16 instructions")
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    said = parser.parse_args()
    device = torch.device(said.device)
    precision = torch.float32 if said.fp32 else torch.bfloat16
    wish = Wish(said.minutes, said.batch, said.rate, said.decay, device, precision)
    torch.manual_seed(0)
    size = SIZES[said.size]
    vae: Any = AutoencoderKL.from_pretrained(said.init) if said.init else fresh_vae(size)
    vae = vae.float().to(device)
    if said.init:  # latents stay what they are, so a denoiser trained on them stays valid
        vae.encoder.requires_grad_(requires_grad=False)
    if device.type == "cuda":
        vae = vae.to(memory_format=torch.channels_last)
    if said.compiled:
        vae.encoder.compile()
        vae.decoder.compile()
    shown = drawings(read_art(said.art).only(TRAINED_STYLES), size.side)
    unseen = unseen_pictures(said.art, size).to(device)
    rows = train(vae, shown, wish, unseen)
    pictures = Pictures(shown, Wish(0, 256, 0, 0, device))
    if not said.init:
        normalise(vae, torch.cat([pictures.batch(10**6 + 8 * n) for n in range(2)]))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    torch.nn.Module.to(vae, torch.bfloat16)
    vae.save_pretrained(said.out)
    write_json(said.out / "training.json", {"device": name, "rows": rows})


if __name__ == "__main__":
    main()
