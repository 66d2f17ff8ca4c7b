import numpy as np
import pytest

from limner.assembly.base import family_at, locate_base
from limner.errors import BadRecipe
from limner.generation.pipeline import pipeline


def test_the_base_alone_paints_and_takes_settings_of_its_sampler(tiny_base):
    source = locate_base(str(tiny_base))
    family = family_at(source)
    pipe = pipeline(family, source, None, overrides={"shift": 5.0})
    assert pipe.scheduler.config["shift"] == 5.0
    image = pipe("zorb", num_inference_steps=1, width=32, height=32).images[0]
    assert np.asarray(image).shape == (32, 32, 3)
    with pytest.raises(BadRecipe, match="knows no no_such_setting"):
        pipeline(family, source, None, overrides={"no_such_setting": True})
