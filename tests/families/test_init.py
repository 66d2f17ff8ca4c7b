import pytest

from limner.errors import BadBase
from limner.families import KNOWN, family_of


@pytest.mark.parametrize("pipeline", sorted(KNOWN))
def test_every_known_pipeline_has_its_family(pipeline: str):
    family = family_of(pipeline)
    assert family.pipeline == pipeline
    assert family.denoiser in family.parts


@pytest.mark.parametrize("pipeline", ["StableCascadePriorPipeline", ""])
def test_an_unknown_pipeline_is_told_with_those_that_are_known(pipeline: str):
    with pytest.raises(BadBase, match=f"The base is a '{pipeline}'; Limner trains .*FluxPipeline"):
        family_of(pipeline)
