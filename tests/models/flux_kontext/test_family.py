"""Sizes of control images are those of diffusers' pipeline; the rest is in the contract."""

import pytest
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

from limner.models.family import SamplingParams
from limner.models.flux_kontext.family import FAMILY, SIZES, control_fits, control_size, pipeline_kwargs
from limner.models.source import Source


def test_the_sizes_are_diffusers():
    assert list(SIZES) == PREFERRED_KONTEXT_RESOLUTIONS


@pytest.mark.parametrize(
    ("size", "wanted"), [((300, 200), (1248, 832)), ((4000, 4000), (1024, 1024)), ((10, 900), (672, 1568))]
)
def test_the_nearest_shape_is_taken_as_the_pipeline_does(size, wanted):
    aspect = size[0] / size[1]
    _, *theirs = min((abs(aspect - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    assert control_size(*size, resolution=1024) == tuple(theirs) == wanted
    assert control_fits(1024)["control"].fitted(*size) == wanted


def test_a_smaller_base_has_them_in_proportion():
    assert control_size(300, 200, resolution=512) == (624, 416)
    assert control_size(64, 64, resolution=32) == (32, 32)


def test_pictures_keep_the_size_that_was_asked_for(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"guidance_embeds": true}')
    params = SamplingParams(width=768, height=512, steps=3)
    options = pipeline_kwargs(Source(tmp_path, "kontext"), params)
    assert options["max_area"] == 768 * 512 and options["guidance_scale"] == 2.5
    assert options["_auto_resize"] is False and FAMILY.controls is not None
