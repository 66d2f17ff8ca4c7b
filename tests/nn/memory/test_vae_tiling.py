import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from torch import nn

from limner.nn.memory import vae_tiling
from limner.nn.memory.vae_tiling import can_tile, tile

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 2,
}
VAES = {
    "kl": lambda: AutoencoderKL(**TINY),
    "flux2": lambda: AutoencoderKLFlux2(**TINY),
    "qwen": lambda: AutoencoderKLQwenImage(
        base_dim=8, z_dim=2, num_res_blocks=1, latents_mean=[0.0] * 2, latents_std=[1.0] * 2
    ),
}


@pytest.mark.parametrize("kind", VAES)
@torch.no_grad()
def test_large_images_are_cut_and_small_ones_are_not(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vae_tiling, "SIDE", 64)
    torch.manual_seed(0)
    vae = VAES[kind]().eval()
    images = [torch.randn(1, 3, 128, 64), torch.randn(1, 3, 64, 64)]
    if kind == "qwen":
        images = [image[:, :, None] for image in images]

    def both(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        latent = vae.encode(image).latent_dist.mean
        return latent, vae.decode(latent).sample

    plain = [both(image) for image in images]
    tile(vae)
    (large, large_back), (small, small_back) = (both(image) for image in images)
    assert torch.equal(small, plain[1][0]) and torch.equal(small_back, plain[1][1])
    assert large.shape == plain[0][0].shape and large_back.shape == plain[0][1].shape
    assert not torch.equal(large, plain[0][0]) and not torch.equal(large_back, plain[0][1])
    tile(vae, on=False)
    again, back = both(images[0])
    assert torch.equal(again, plain[0][0]) and torch.equal(back, plain[0][1])


def test_what_has_no_tiles_is_left_alone():
    assert not can_tile(nn.Linear(1, 1))
    tile(nn.Linear(1, 1))
