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
from limner.bases.captions import Appearance, choose
from limner.bases.clock import Clock
from limner.bases.latents import drawings
from limner.bases.looks import render
from limner.bases.parts import SIZES, Size, fresh_vae
from limner.files import write_json
from limner.nn.loop import Average, Fit, fit

KL = 2e-6
"""Weight of the divergence per latent number: enough to keep latents near unit scale, not to blur them."""


@dataclass(frozen=True)
class VaeConfig:
    """Minutes, images per step, peak learning rate, decay of the averaged weights, bf16 or fp32."""

    minutes: float
    batch: int
    rate: float
    decay: float
    device: torch.device
    precision: torch.dtype = torch.bfloat16


def vae_loss(vae: Any, images: Tensor) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> (B,): L1, L2, L2 of coarse pictures and slopes, and a little divergence."""
    posterior = vae.encode(images).latent_dist
    reconstruction = vae.decode(posterior.sample()).sample.float()
    wrong = reconstruction - images
    coarse = F.avg_pool2d(wrong, 4)
    slopes = torch.cat([wrong.diff(dim=-1).flatten(1), wrong.diff(dim=-2).flatten(1)], dim=1)
    loss = wrong.abs().flatten(1).mean(1) + 4 * wrong.square().flatten(1).mean(1)
    loss = loss + 2 * coarse.square().flatten(1).mean(1) + 2 * slopes.square().mean(1)
    return loss + KL * posterior.kl().float()


def train(
    vae: Any, art_drawings: Tensor, config: VaeConfig, validation_images: Tensor
) -> list[dict[str, float]]:
    """Train in place on varied drawings (N, 4, S, S); ``vae`` ends with its averaged weights."""
    parameters = [weight for weight in vae.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, config.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=config.device.type == "cuda"
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = config.rate
    average = Average(parameters, config.decay)
    clock = Clock(config.minutes * 60)
    loop = Fit(
        parameters=parameters,
        optimizer=optimizer,
        rate=lambda step: min(1.0, (step + 1) / 100) * clock.cosine(0.1),
        clip=1.0,
        average=average,
    )
    stepper = AugmentedImages(art_drawings, config)
    rows: list[dict[str, float]] = []
    next_share = 0.0
    for step in fit(loop, lambda number: _losses(vae, stepper, number, config), start=0, steps=10**9):
        if clock.share() >= next_share or clock.over():
            next_share += 1 / 12
            average.swap()
            rows.append(
                {
                    "step": step.number,
                    "images": step.number * config.batch,
                    "seconds": clock.seconds(),
                    **psnr(vae, validation_images),
                }
            )
            average.swap()
            sys.stderr.write(json.dumps({key: round(value, 3) for key, value in rows[-1].items()}) + "\n")
        if clock.over():
            break
    average.swap()
    return rows


class AugmentedImages:
    """Augmented pictures, made on the device a few batches at a time."""

    AHEAD = 8

    def __init__(self, art_drawings: Tensor, config: VaeConfig) -> None:
        self.drawings, self.config = art_drawings.to(config.device), config
        self._images_of: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """(batch, 3, S, S) in [-1, 1]."""
        if step not in self._images_of:
            self._images_of = {}
            count = self.config.batch * self.AHEAD
            seeds = range(step * self.config.batch, step * self.config.batch + count)
            rows = torch.randint(len(self.drawings), (count,), generator=torch.Generator().manual_seed(step))
            choices = [choose(seed) for seed in seeds]
            chosen_drawings = self.drawings[rows.to(self.config.device)]
            images = (
                torch.cat(
                    [render(chosen_drawings[n : n + 512], choices[n : n + 512]) for n in range(0, count, 512)]
                )
                * 2
                - 1
            )
            self._images_of = {step + n: portion for n, portion in enumerate(images.split(self.config.batch))}
        return self._images_of.pop(step)


def _losses(vae: Any, images: AugmentedImages, step: int, config: VaeConfig) -> Iterator[Tensor]:
    batch = images.batch(step)
    if config.device.type == "cuda":
        batch = batch.contiguous(memory_format=torch.channels_last)
    with torch.autocast(config.device.type, torch.bfloat16, enabled=config.precision == torch.bfloat16):
        yield vae_loss(vae, batch).mean()


@torch.no_grad()
def reconstruct(vae: Any, images: Tensor) -> Tensor:
    """Through the mean of the posterior and back, in [-1, 1]."""
    return torch.cat(
        [vae.decode(vae.encode(chunk).latent_dist.mean).sample.clamp(-1, 1) for chunk in images.split(64)]
    )


def psnr(vae: Any, images: Tensor) -> dict[str, float]:
    """Mean and 10th percentile over pictures in [-1, 1], in dB against a range of 1."""
    wrong = (reconstruct(vae, images) - images).square().flatten(1).mean(1) / 4
    decibels = -10 * torch.log10(wrong.clamp(min=1e-10))
    return {"psnr_mean": float(decibels.mean()), "psnr_p10": float(decibels.quantile(0.1))}


def validation_images_of(art: Path, size: Size, count: int = 96) -> Tensor:
    """Pictures of the styles that the autoencoder never saw, on white, in [-1, 1]."""
    art_kept = read_art(art).only(UNSEEN_STYLES, size.concepts)
    rows = torch.linspace(0, len(art_kept.rgba) - 1, min(count, len(art_kept.rgba))).long()
    art_drawings = drawings(art_kept, size.side)[rows]
    return render(art_drawings, [Appearance(scale=1.0)] * len(art_drawings)) * 2 - 1


def normalise(vae: Any, images: Tensor) -> None:
    """Set shift and scale so that latents have mean 0 and deviation 1 over ``pictures``."""
    with torch.no_grad():
        latents = torch.cat([vae.encode(chunk).latent_dist.mean.float() for chunk in images.split(128)])
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
    args = parser.parse_args()
    device = torch.device(args.device)
    precision = torch.float32 if args.fp32 else torch.bfloat16
    config = VaeConfig(args.minutes, args.batch, args.rate, args.decay, device, precision)
    torch.manual_seed(0)
    size = SIZES[args.size]
    vae: Any = AutoencoderKL.from_pretrained(args.init) if args.init else fresh_vae(size)
    vae = vae.float().to(device)
    if args.init:  # latents stay what they are, so a denoiser trained on them stays valid
        vae.encoder.requires_grad_(requires_grad=False)
    if device.type == "cuda":
        vae = vae.to(memory_format=torch.channels_last)
    if args.compiled:
        vae.encoder.compile()
        vae.decoder.compile()
    art_drawings = drawings(read_art(args.art).only(TRAINED_STYLES), size.side)
    validation_images = validation_images_of(args.art, size).to(device)
    rows = train(vae, art_drawings, config, validation_images)
    images = AugmentedImages(art_drawings, VaeConfig(0, 256, 0, 0, device))
    if not args.init:
        normalise(vae, torch.cat([images.batch(10**6 + 8 * n) for n in range(2)]))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    torch.nn.Module.to(vae, torch.bfloat16)
    vae.save_pretrained(args.out)
    write_json(args.out / "training.json", {"device": name, "rows": rows})


if __name__ == "__main__":
    main()
