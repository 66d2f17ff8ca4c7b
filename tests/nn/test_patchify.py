import torch
from diffusers import Flux2Pipeline, FluxPipeline

from limner.nn import patchify

CPU = torch.device("cpu")
LATENT = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))


def test_patches_are_those_of_the_pipelines():
    assert torch.equal(patchify.patchify(LATENT), Flux2Pipeline._patchify_latents(LATENT))
    packed = patchify.tokens(patchify.patchify(LATENT))
    assert torch.equal(packed, FluxPipeline._pack_latents(LATENT, 2, 4, 6, 10))


def test_patches_and_tokens_are_undone():
    assert torch.equal(patchify.unpatchify(patchify.patchify(LATENT)), LATENT)
    assert torch.equal(patchify.untokens(patchify.tokens(LATENT), 6), LATENT)


def test_places_are_those_of_the_pipeline():
    ids = FluxPipeline._prepare_latent_image_ids(2, 3, 5, CPU, torch.float32)
    assert torch.equal(patchify.grid(3, 5, CPU), ids[:, 1:])
