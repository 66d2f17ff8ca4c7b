"""What is SDXL's alone; the rest is in the contract."""

from pathlib import Path

import pytest
import torch

from limner.assembly.resolve import resolve
from limner.graph.unit import split
from limner.models.family import Objective
from limner.models.loading import load
from limner.models.sdxl.family import FAMILY
from limner.models.source import locate
from limner.nn.layers import lora
from small import wish
from tiny import save_sdxl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp("bases") / "tiny-sdxl")


def test_training_both_text_encoders_moves_the_cut(folder: Path):
    source = locate(str(folder), folders={})
    trained = {"unet": 0, "text_encoder": 1, "text_encoder_2": 0}
    cut = split(FAMILY.bound(source, Objective()), trained)
    assert cut.boundary == {
        "encode_clip@1", "clip_tokens", "clip_tokens_2", "time_ids", "latent_mean", "latent_logvar"
    }  # fmt: skip


def test_the_last_layer_of_the_first_clip_is_never_trained(folder: Path, photos: Path):
    """It never runs: the denoiser reads the state before it."""
    recipe = wish(
        folder, photos, lora={"rank": 2, "text_encoders": ["text_encoder"], "text_encoder_layers": 1}
    )
    assert resolve(recipe).first_layers["text_encoder"] == 1
    source = locate(str(folder), folders={})
    model = load(FAMILY, source, "text_encoder", dtype=torch.float32, device=torch.device("cpu"))
    names = lora.matching(
        model,
        FAMILY.text_targets["text_encoder"],
        layers="encoder.layers",
        until=FAMILY.depth(source, "text_encoder"),
    )
    assert {name.split(".")[2] for name in names} == {"0", "1"}


def test_frames_are_told_as_numbers():
    unit = {each.name: each for each in FAMILY.units}["describe"]
    seen = unit.run({}, {"frame": torch.tensor([[600, 900, 0, 16, 512, 768]])})["time_ids"]
    assert seen.dtype == torch.float32 and seen.tolist() == [[600, 900, 0, 16, 512, 768]]
