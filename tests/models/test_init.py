from pathlib import Path

import pytest

from limner.errors import BadBase
from limner.models import KNOWN, family_of, kind_of


@pytest.mark.parametrize("pipeline", sorted(KNOWN))
def test_every_known_pipeline_has_its_family(pipeline: str):
    family = family_of(pipeline)
    assert family.pipeline == pipeline
    assert family.denoiser in family.parts


@pytest.mark.parametrize("pipeline", ["StableCascadePriorPipeline", ""])
def test_an_unknown_pipeline_is_told_with_those_that_are_known(pipeline: str):
    with pytest.raises(BadBase, match=f"The base is a '{pipeline}'; Limner trains .*FluxPipeline"):
        family_of(pipeline)


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("glyph", "glyph"),
        ("flux-dev", "flux"),
        ("flux2-klein-4b", "flux2"),
        ("sdxl", "sdxl"),
        ("sd35-medium", "sd3"),
        ("z-image-turbo", "z-image"),
        ("qwen-image", "qwen-image"),
        ("own/er", "flux"),
    ],
)
def test_the_kind_of_a_base_is_told_by_its_name(base: str, kind: str):
    assert kind_of(base) == kind


def test_the_kind_of_a_folder_is_told_by_its_index(tiny_base: Path, tmp_path: Path):
    assert kind_of(str(tiny_base)) == "flux"
    (tmp_path / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    assert kind_of(str(tmp_path)) == "z-image"
    (tmp_path / "model_index.json").write_text("[]")
    assert kind_of(str(tmp_path)) == "flux", "what is wrong with it is told when it is opened"


def test_a_fine_tune_of_the_embedded_base_is_of_its_kind(tmp_path: Path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (tmp_path / "limner.json").write_text('{"name": "glyph", "resolution": 64}')
    assert kind_of(str(tmp_path)) == "glyph"
