"""What is Stable Diffusion 3.5's alone; the rest is in the contract."""

import pytest
import torch

from limner.graph.unit import split
from limner.models.bundled import known
from limner.models.family import Objective
from limner.models.sd3.family import FAMILY, model_spec, together
from limner.models.source import Source, locate
from tiny import save_sd3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return locate(str(save_sd3(tmp_path_factory.mktemp("bases") / "tiny-sd3")), folders={})


def test_each_text_encoder_may_be_trained(source: Source):
    trained = {"transformer": 0, "text_encoder": 2, "text_encoder_2": 0, "text_encoder_3": 1}
    cut = split(FAMILY.bound(source, Objective()), trained)
    assert cut.boundary == {
        "encode_clip@2", "clip_tokens", "clip_tokens_2", "encode_t5@1", "t5_tokens",
        "latent_mean", "latent_logvar",
    }  # fmt: skip


def test_clips_stand_side_by_side_and_t5_behind_them():
    first, second, third = (
        torch.full((1, 3, width), value) for width, value in ((2, 1.0), (3, 2.0), (8, 3.0))
    )
    seen = together(first, second, third)
    assert seen.shape == (1, 6, 8) and seen[0, 5].tolist() == [3.0] * 8
    assert seen[0, 0].tolist() == [1, 1, 2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize("size", ["medium", "large"])
def test_files_say_which_size_they_are_for(size: str):
    assert model_spec(known(f"sd35-{size}")) == (f"stable-diffusion-3-5-{size}", f"sd3_5_{size}")
