"""Images in a text, as transformers reads them when it is told which tokens are an image's."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from limner.models.qwen_image_edit.vision import patches, spread, states
from tiny import qwen_text_encoder
from tiny_edit import VISION

LEVEL = 1 / 255 / 0.2613
"""What one of 255 levels is after the processor's scale."""


def image(width: int, height: int) -> torch.Tensor:
    draw = np.random.default_rng(width * height)
    return torch.from_numpy(draw.integers(0, 256, (1, 3, height, width), dtype=np.uint8))


@pytest.fixture(scope="module")
def encoder() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    return qwen_text_encoder(VISION).eval()


@pytest.mark.parametrize("size", [(84, 140), (96, 128), (384, 416)])
def test_patches_are_the_processors(size: tuple[int, int]):
    """To one level where the image is resized: the processor computes in whole numbers."""
    pixels = image(*size)
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 12845056})
    wanted = processor(Image.fromarray(pixels[0].permute(1, 2, 0).numpy()), return_tensors="pt")
    mine, grid = patches(pixels, patch=14, merge=2, frames=2)
    assert [1, *grid] == wanted["image_grid_thw"][0].tolist()
    resized = any(side % 28 for side in size)
    assert torch.allclose(mine, wanted["pixel_values"], rtol=0, atol=1.01 * LEVEL if resized else 1e-5)


def test_states_are_those_of_the_model_that_is_told_of_its_images(encoder):
    images, tokens = [image(96, 64), image(64, 128)], torch.tensor([[5, 6, 259, 7, 8, 259, 9]])
    parts, grids = zip(*(patches(item, patch=16, merge=2, frames=2) for item in images), strict=True)
    grid = torch.tensor([(1, *sides) for sides in grids])
    ids, positions = spread(tokens[0], 259, [(rows // 2, columns // 2) for rows, columns in grids])
    is_image = (ids == 259).int()[None]
    assert is_image.sum() == 6 + 8 and len(ids) == 5 + 14
    theirs, _ = encoder.model.get_rope_index(ids[None], is_image, image_grid_thw=grid)
    assert torch.equal(positions, theirs[:, 0])
    with torch.no_grad():
        mine = states(encoder, tokens, images)
        wanted = encoder(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids)[None],
            pixel_values=torch.cat(parts),
            image_grid_thw=grid,
            mm_token_type_ids=is_image,
            output_hidden_states=True,
        ).hidden_states[-1]
    assert torch.allclose(mine, wanted, atol=1e-6)


def test_shapes_are_known_before_there_are_weights(encoder):
    with torch.device("meta"):
        hollow = Qwen2_5_VLForConditionalGeneration(encoder.config)
    seen = states(hollow, torch.empty(1, 7, dtype=torch.int64, device="meta"), [image(96, 64).to("meta")])
    assert seen.shape == (1, 7 + 5, 16) and seen.is_meta
