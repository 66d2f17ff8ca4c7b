"""Control images of ``generate``: too few, too many, and those that are not there."""

import pytest
from PIL import Image

from limner.data.images import BadImage
from limner.errors import BadUsage
from limner.generation.controls import require_controls, shown_images
from limner.generation.settings import Settings
from limner.models.flux.family import FAMILY as FLUX
from limner.models.flux2.family import FAMILY as FLUX2
from limner.models.flux_kontext.family import FAMILY as KONTEXT
from messages import raises


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_an_edit_model_needs_as_many_as_it_reads(image):
    require_controls(KONTEXT, Settings(controls=(image,)))
    require_controls(FLUX, Settings())
    for family, controls in (
        (KONTEXT, ()),
        (KONTEXT, (image, image)),
        (KONTEXT, (image.with_name("b.png"),)),
        (FLUX, (image,)),
    ):
        with raises(BadUsage):
            require_controls(family, Settings(controls=controls))


def test_they_are_shown_at_the_size_of_the_base(image):
    assert [item.size for item in shown_images(KONTEXT, 1024, [image])] == [(1248, 832)]
    assert shown_images(FLUX, 1024, []) == ()


def test_a_base_that_can_do_without_reads_up_to_four(image, tmp_path):
    for count in (0, 1, 4):
        require_controls(FLUX2, Settings(controls=(image,) * count))
    with raises(BadUsage):
        require_controls(FLUX2, Settings(controls=(image,) * 5))
    assert [item.size for item in shown_images(FLUX2, 1024, [image, image])] == [(288, 192)] * 2
    Image.new("RGB", (40, 200)).save(tmp_path / "small.png")
    with raises(BadImage):
        shown_images(FLUX2, 1024, [image, tmp_path / "small.png"])
