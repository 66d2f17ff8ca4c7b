import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, Dinov2Config, Dinov2Model

from limner.checking.encoder import encoded
from scenes import scene

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_pictures_become_directions(tmp_path, kind):
    torch.manual_seed(0)
    if kind == "clip":
        vision = {**SMALL, "image_size": 32, "patch_size": 16}
        text = {**SMALL, "vocab_size": 20}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    else:
        model = Dinov2Model(
            Dinov2Config(
                hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
            )
        )
    model.save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path
    )
    points = encoded(str(tmp_path), [scene(seed) for seed in (0, 1, 0)])
    assert points.shape == (3, 8) and np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    assert np.allclose(points[0], points[2]) and not np.allclose(points[0], points[1])
