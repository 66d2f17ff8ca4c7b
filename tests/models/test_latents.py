import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import Flux2Pipeline, FluxPipeline

from limner.models import latents
from limner.models.latents import draw_latent, draw_noise, encode_image
from limner.nn.rng import KeyedRng

PLACES = [(0, 1, 0), (0, 1, 1)]


def vae(shift: float | None) -> SimpleNamespace:
    def encode(pixels: torch.Tensor) -> SimpleNamespace:
        assert pixels.min() == -1 and pixels.max() == 1
        return SimpleNamespace(
            latent_dist=SimpleNamespace(
                mean=pixels[:, :1], logvar=torch.full_like(pixels[:, :1], 2 * math.log(0.5))
            )
        )

    config = SimpleNamespace(scaling_factor=2.0, shift_factor=shift)
    return SimpleNamespace(dtype=torch.float32, encode=encode, config=config)


def test_a_posterior_is_normalised_by_the_base_s_own_scale_and_shift():
    image = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    for shift, wanted in ((None, [-2.0, 2.0]), (0.25, [-2.5, 1.5])):
        seen = encode_image.run({"vae": vae(shift)}, {"image": image})
        assert seen["latent_mean"].flatten().tolist() == wanted
        assert seen["latent_logvar"].flatten().tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_latent_is_drawn_by_its_place():
    mean, logvar = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), -4.6)
    given = {"latent_mean": mean, "latent_logvar": logvar}
    both = draw_latent.run({}, given, KeyedRng(PLACES))["latent"]
    one = draw_latent.run({}, {name: v[1:] for name, v in given.items()}, KeyedRng(PLACES[1:]))["latent"]
    assert torch.equal(both[1:], one) and not torch.equal(both[0], both[1])
    noise = draw_noise.run({}, {"latent": both}, KeyedRng(PLACES))["noise"]
    assert noise.shape == both.shape and not torch.equal(noise, both)


CPU = torch.device("cpu")
LATENT = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))


def test_patches_are_those_of_the_pipelines():
    assert torch.equal(latents.patchify(LATENT), Flux2Pipeline._patchify_latents(LATENT))
    packed = latents.tokens(latents.patchify(LATENT))
    assert torch.equal(packed, FluxPipeline._pack_latents(LATENT, 2, 4, 6, 10))


def test_patches_and_tokens_are_undone():
    assert torch.equal(latents.unpatchify(latents.patchify(LATENT)), LATENT)
    assert torch.equal(latents.untokens(latents.tokens(LATENT), 6), LATENT)


def test_places_are_those_of_the_pipeline():
    ids = FluxPipeline._prepare_latent_image_ids(2, 3, 5, CPU, torch.float32)
    assert torch.equal(latents.grid(3, 5, CPU), ids[:, 1:])
