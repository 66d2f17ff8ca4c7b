import json

import pytest

import base_profiles
from blueprints import flux
from limner.models.registry import registered_bases
from limner.planning.profile import to_json
from limner.planning.shipped import FOLDER, packed, shipped_profile, unpacked


def test_a_profile_is_packed_without_loss_and_each_block_stands_there_once():
    profile = flux(512, doubles=4, singles=6)
    value = json.loads(json.dumps(packed(profile)))
    assert unpacked(value) == profile
    assert len(value["blocks"]) == 2
    assert value["order"] == [0] * 4 + [1] * 6


@pytest.mark.parametrize("base", registered_bases())
def test_every_registered_base_has_its_profiles(base):
    """Where one is missing: python tools/base_profiles.py."""
    for kind in base_profiles.kinds(base):
        profile = shipped_profile(base, kind)
        assert profile is not None
        assert (profile.base, profile.size) == (base, (registered_bases()[base].resolution,) * 2)


def test_no_file_is_left_of_a_base_that_is_gone():
    names = {f"{base}-{kind}.json" for base in registered_bases() for kind in base_profiles.kinds(base)}
    assert {path.name for path in FOLDER.iterdir()} == names
    assert shipped_profile("sdxl", "cpu") is None


@pytest.mark.parametrize("base", ["glyph", pytest.param("sdxl", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["cuda"])
def test_what_is_shipped_is_what_a_trace_gives(base, kind):
    traced = json.loads(json.dumps(to_json(base_profiles.traced(base, kind))))
    assert json.loads(json.dumps(to_json(shipped_profile(base, kind)))) == traced
