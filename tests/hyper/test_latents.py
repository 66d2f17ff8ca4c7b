import numpy as np
import pytest
import torch
from PIL import Image

from limner.assembly.base import family_at
from limner.errors import BadRecipe
from limner.hyper.latents import latents_of, look_unit, width_of
from limner.hyper.predictor import pixels_of
from limner.lora.location import locate_base
from limner.models.facts import Objective
from limner.models.loading import load
from messages import raises
from tiny import save_qwen_image, save_sdxl

CPU = torch.device("cpu")


def pictures(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(3)
    return [Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("maker", [save_qwen_image, save_sdxl])
def test_they_are_what_the_family_trains_on_of_the_middle_square(maker, tmp_path):
    """Of any family: its own unit, with scale and shift. A plan knows their number without weights."""
    source = locate_base(str(maker(tmp_path / "base")))
    family = family_at(source)
    side, images = 2 * family.multiple, pictures(2)
    vectors = latents_of(images, source, family, side, print)
    encode = next(unit for unit in family.units if "latent_mean" in unit.writes)
    encode = encode.bind(**family.constants(source, Objective()))
    vae = load(family, source, "vae", dtype=torch.float32, device=CPU)
    with torch.no_grad():
        wanted = encode.run({"vae": vae}, {"image": pixels_of(images, side)})["latent_mean"].flatten(1)
    assert torch.allclose(vectors, wanted, atol=1e-5) and vectors.std() > 0
    assert vectors.shape == (2, width_of(family, source, side))


def test_a_square_that_the_autoencoder_does_not_take_is_told(tiny_base):
    with raises(BadRecipe):
        look_unit(family_at(locate_base(str(tiny_base))), "look", 20)
