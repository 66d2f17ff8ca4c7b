"""What stands for torchvision where diffusers' model resizes its mask."""

from typing import Any

import pytest
import torch
from diffusers.models.transformers import transformer_cosmos

from cases import CASES
from limner.models.anima import padding
from limner.models.anima.padding import resize_by_torch
from tinybase import Base

CASE = next(case for case in CASES if case.name == "anima")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    resize_by_torch()
    return Base(CASE, tmp_path_factory.mktemp("bases") / "anima")


def test_the_mask_of_padding_may_be_of_any_size(base: Base):
    """The pipeline's has the image's pixels, ours the latent's places; all are zeros."""
    denoiser = base.models["transformer"]
    options: dict[str, Any] = {
        "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": base.row(0)["context"],
        "return_dict": False,
    }
    latent = torch.randn(1, 16, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        small, large = (
            denoiser(latent, padding_mask=torch.zeros(1, 1, height, width), **options)[0]
            for height, width in ((4, 8), (32, 64))
        )
        masked = denoiser(latent, padding_mask=torch.ones(1, 1, 32, 64), **options)[0]
    assert torch.equal(small, large) and not torch.allclose(small, masked)


def test_a_mask_is_resized_to_the_nearest_pixel_as_torchvision_does():
    mask = torch.arange(32.0).view(1, 1, 4, 8)
    mode = padding._Transforms.InterpolationMode.NEAREST
    resized = padding._Transforms.functional.resize(mask, [2, 4], interpolation=mode)
    assert torch.equal(resized[0, 0], mask[0, 0, ::2, ::2])


def test_torchvision_is_left_alone_where_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(transformer_cosmos, "transforms", raising=False)
    monkeypatch.setattr("diffusers.utils.is_torchvision_available", lambda: True)
    resize_by_torch()
    assert not hasattr(transformer_cosmos, "transforms")
    monkeypatch.setattr("diffusers.utils.is_torchvision_available", lambda: False)
    resize_by_torch()
    assert vars(transformer_cosmos)["transforms"] is padding._Transforms
