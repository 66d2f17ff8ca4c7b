"""What is Z-Image's alone; the rest is in the contract."""

from pathlib import Path

import pytest
import torch

from limner.models.family import Objective, SamplingParams
from limner.models.source import Source, locate
from limner.models.z_image.family import FAMILY, cut, pipeline_kwargs
from tiny import save_z_image

CANVAS = SamplingParams(width=32, height=32, steps=2)


@pytest.mark.parametrize(
    ("name", "guidance"), [("z-image", 5.0), ("z-image-turbo", 0.0), ("Tongyi-MAI/Z-Image-Turbo", 0.0)]
)
def test_turbo_needs_no_guidance(tmp_path: Path, name: str, guidance: float):
    assert pipeline_kwargs(Source(tmp_path, name), CANVAS)["guidance_scale"] == guidance
    told = SamplingParams(width=32, height=32, steps=2, guidance=2.0)
    assert pipeline_kwargs(Source(tmp_path, name), told)["guidance_scale"] == 2.0


def test_texts_are_cut_to_their_lengths():
    context = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert [row.tolist() for row in cut(context, mask)] == [context[0].tolist(), context[1, :1].tolist()]


def test_times_are_shifted_as_the_sampler_is(tmp_path: Path):
    source = locate(str(save_z_image(tmp_path / "tiny")), folders={})
    assert FAMILY.constants(source, Objective())["time_shift"] == 3.0
    assert FAMILY.constants(source, Objective(time_shift=1.0))["time_shift"] == 1.0
    assert FAMILY.padded_values == {"context", "text_mask"}
