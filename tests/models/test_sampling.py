"""Many pictures at once are those of one at a time; equality with stock pipelines is in the contract."""

from pathlib import Path

import numpy as np
import pytest
import torch

from limner.errors import BadRecipe
from limner.models import sampling
from limner.models.family import Objective, SamplingParams
from limner.models.flux.family import FAMILY as FLUX
from limner.models.loading import hush, load
from limner.models.registry import family_of
from limner.models.sampling import overrides_from_metadata, overrides_of, prediction_metadata, sampler
from limner.models.sd15.family import FAMILY as SD15
from limner.models.sdxl.family import FAMILY as SDXL
from limner.models.source import Source, locate
from messages import raises
from tiny import save_sd15, save_sdxl


def test_each_picture_has_its_own_seed(tiny_base: Path):
    hush()
    source, family = locate(str(tiny_base), folders={}), family_of("FluxPipeline")
    models = {
        name: load(family, source, name, dtype=torch.float32, device=torch.device("cpu"))
        for name in ("vae", "transformer")
    }
    texts = [{"context": torch.randn(1, 12, 16), "pooled": torch.randn(1, 16)} for _ in range(3)]
    canvas = SamplingParams(width=32, height=32, steps=1, seed=4)
    with torch.no_grad():
        both = sampling.sample_images(family, source, models, texts[:2], texts[2], canvas)
        second = sampling.sample_images(
            family, source, models, texts[1:2], texts[2], SamplingParams(width=32, height=32, steps=1, seed=5)
        )
    assert np.abs(np.asarray(both[1], int) - np.asarray(second[0], int)).max() <= 1
    assert not np.array_equal(np.asarray(both[0]), np.asarray(both[1]))


V = Objective(prediction="v", zero_terminal_snr=True)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return locate(str(save_sdxl(tmp_path_factory.mktemp("bases") / "sdxl")), folders={})


def test_a_recipe_that_contradicts_the_base_is_heard_when_painting(sdxl: Source):
    made = sampler(sdxl, overrides_of(V))
    assert made.config.prediction_type == "v_prediction" and made.config.rescale_betas_zero_snr
    assert made.config.timestep_spacing == "trailing"
    assert made.config.beta_end == sdxl.config("scheduler")["beta_end"]
    plain = sampler(sdxl, overrides_of(Objective()))
    assert plain.config.prediction_type == "epsilon" and plain.config.timestep_spacing == "leading"


def test_a_sampler_that_cannot_begin_at_pure_noise_is_refused(tmp_path: Path):
    source = locate(str(save_sd15(tmp_path / "sd15")), folders={})
    assert sampler(source, overrides_of(Objective(prediction="v"))).config.prediction_type == "v_prediction"
    with raises(BadRecipe):
        sampler(source, overrides_of(V))
    assert prediction_metadata(SD15, source, Objective()) == ("epsilon", False)


def test_files_say_what_they_were_trained_for_and_are_believed(sdxl: Source):
    assert prediction_metadata(SDXL, sdxl, V) == ("v", True) and prediction_metadata(
        FLUX, sdxl, Objective()
    ) == ("", False)
    ours = {"software": "Limner 1", "modelspec.prediction_type": "v", "ss_zero_terminal_snr": "True"}
    assert overrides_from_metadata(SDXL, sdxl, ours) == overrides_of(V)
    assert (
        overrides_from_metadata(
            SDXL, sdxl, {**ours, "modelspec.prediction_type": "epsilon", "ss_zero_terminal_snr": ""}
        )
        == {}
    )
    assert overrides_from_metadata(SDXL, sdxl, {**ours, "software": "another"}) == {}
    assert overrides_from_metadata(FLUX, sdxl, ours) == {}
