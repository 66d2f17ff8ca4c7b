import shutil
from pathlib import Path

import pytest

from limner.assembly.base import ResolvedBase
from limner.errors import BadRecipe
from limner.models.flux.family import FAMILY
from limner.models.source import locate
from limner.planning.estimate import estimate, misfit
from limner.planning.profile_cache import opened, shape_of
from limner.planning.request import ProfileRequest
from limner.recipe.schema import Recipe
from limner.recipe.toml import change
from messages import raises

GLYPH = change(Recipe(), {"base": "glyph", "lora.rank": 4})


def asked(recipe=GLYPH, size=(64, 64)):
    source = opened(recipe, lambda line: None)
    base = ResolvedBase(recipe=recipe, source=source, shape=shape_of(source), kind="cpu", compute="fp32")
    return ProfileRequest(base, size)


def test_the_embedded_base_is_foreseen_whole():
    profile = estimate(asked())
    assert (profile.base, profile.size, len(profile.blocks)) == ("glyph", (64, 64), 6)
    phases = {stage.phase for stage in profile.stages}
    assert phases == {"cache", "sample"}
    assert profile.entry > 0
    paints = next(stage for stage in profile.stages if stage.times == "sample step")
    one = sum(block.forward.gemm.at(1) for block in profile.blocks) + profile.rest.forward.gemm.at(1)
    # one picture is asked for twice, with its prompt and without; the LoRA adds a little to both
    assert 1.5 * one < paints.work.gemm.at(1) < 2.5 * one


def test_pictures_that_cannot_be_painted_are_told():
    with raises(BadRecipe):
        estimate(asked(change(GLYPH, {"sample.width": 65})))


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_a_config_that_its_weights_contradict_is_named(tiny_base: Path, tmp_path: Path, part: str):
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    source = locate(str(folder), folders={})
    assert misfit(FAMILY, source) == ""
    (folder / part / "config.json").write_text("{}")
    source = locate(str(folder), folders={})
    assert misfit(FAMILY, source).startswith(f"{part}/config.json describes another model")
