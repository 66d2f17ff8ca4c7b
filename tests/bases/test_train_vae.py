import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from limner.bases import train_vae
from limner.bases.art import Art
from limner.bases.latents import drawings
from limner.bases.parts import SIZES, fresh_vae
from limner.bases.train_vae import AugmentedImages, VaeConfig, normalise, psnr, vae_loss

SIZE = replace(SIZES["cpu"], vae_channels=(8, 8, 16, 16), latent_channels=8)


def test_the_loss_is_one_number_an_image_and_lowest_for_the_image_itself() -> None:
    torch.manual_seed(0)
    vae = fresh_vae(SIZE)
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    loss = vae_loss(vae, pictures)
    assert loss.shape == (3,)
    assert (loss > 0).all()


def test_pictures_are_functions_of_the_step(art: Art) -> None:
    wish = VaeConfig(0.0, 4, 1e-3, 0.9, torch.device("cpu"), torch.float32)
    first, second = (AugmentedImages(drawings(art, 64), wish) for _ in range(2))
    for step in range(3):
        batch = first.batch(step)
        assert torch.equal(batch, second.batch(step))
        assert batch.shape == (4, 3, 64, 64)
        assert -1 <= batch.min() <= batch.max() <= 1


def test_normalised_latents_have_mean_0_and_deviation_1() -> None:
    torch.manual_seed(0)
    vae = fresh_vae(SIZE).eval()
    pictures = torch.rand(8, 3, 64, 64) * 2 - 1
    normalise(vae, pictures)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mean
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    assert scaled.mean().item() == pytest.approx(0, abs=1e-4)
    assert scaled.std().item() == pytest.approx(1, abs=1e-4)


def test_psnr_is_of_a_range_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_vae, "reconstruct", lambda _, pictures: pictures + 0.2)
    found = psnr(None, torch.zeros(5, 3, 8, 8))
    assert found["psnr_mean"] == pytest.approx(20.0, abs=1e-3)
    assert found["psnr_p10"] == pytest.approx(20.0, abs=1e-3)


def test_the_command_leaves_a_vae_that_diffusers_loads(
    tmp_path: Path, art_file: Path, monkeypatch: pytest.MonkeyPatch, looked_at: Callable[[int], None]
) -> None:
    looked_at(100)
    monkeypatch.setitem(train_vae.SIZES, "cpu", SIZE)
    said = f"x --art {art_file} --out {tmp_path}/vae --size cpu --minutes 1 --batch 4 --device cpu"
    monkeypatch.setattr(sys, "argv", [*said.split(), "--no-compile"])
    train_vae.main()
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert vae.config.scaling_factor != 1.0
    rows = json.loads((tmp_path / "vae" / "training.json").read_text())["rows"]
    assert rows[-1]["psnr_mean"] > rows[0]["psnr_mean"]
