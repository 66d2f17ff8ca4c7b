"""What is Stable Diffusion 1.5's alone; the rest is in the contract."""

from pathlib import Path

from limner.assembly.resolve import resolve
from limner.models.family import SamplingParams
from limner.models.sd15.family import FAMILY, pipeline_kwargs
from limner.models.source import Source
from small import wish
from tiny import save_sd15


def test_it_is_trained_at_512_unless_told_otherwise(tmp_path: Path, photos: Path):
    folder = save_sd15(tmp_path / "tiny")
    assert resolve(wish(folder, photos)).resolution == 32
    (folder / "limner.json").unlink()
    assert resolve(wish(folder, photos, data={"min_side": 1})).resolution == 512


def test_its_own_guidance(tmp_path: Path):
    asked = pipeline_kwargs(Source(tmp_path, "bare"), SamplingParams(width=64, height=64, steps=2))
    assert asked["guidance_scale"] == 7.5 and asked["negative_prompt"] == ""


def test_every_layer_of_its_text_encoder_runs():
    assert set(FAMILY.text_targets) == {"text_encoder"} and not FAMILY.idle_layers
