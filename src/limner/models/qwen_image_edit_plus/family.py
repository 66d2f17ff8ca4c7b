"""Qwen-Image-Edit-Plus: Qwen-Image-Edit of September 2025 and later, which sees several images.

Weights: Qwen/Qwen-Image-Edit-2509 (Apache-2.0). Each control image comes in two sizes: a megapixel for the
autoencoder, 384 x 384 pixels for the text encoder, whose text counts them: "Picture 1". Bases with
``zero_cond_t`` in their config, such as Qwen/Qwen-Image-Edit-2511, hold control images to be at time 0.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from limner.data.control import ControlFit
from limner.models.family import Controls, Objective
from limner.models.qwen_image_edit.family import FAMILY as EDIT
from limner.models.qwen_image_edit.family import MULTIPLE, control_size, encode_control
from limner.models.qwen_image_edit.family import constants as edit_constants
from limner.models.qwen_image_edit_plus.facts import FACTS
from limner.models.source import Source

CONDITION_SHARE = 384 / 1024
"""Side of what the text encoder sees by that of what the autoencoder does: of the pipeline's two areas."""


def control_fits(resolution: int) -> Mapping[str, ControlFit]:
    """The two sizes of a control image: for the autoencoder, and for the text encoder."""
    return {
        name: ControlFit(partial(control_size, area=side * side), MULTIPLE)
        for name, side in (("control", resolution), ("condition", resolution * CONDITION_SHARE))
    }


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """As those of Qwen-Image-Edit; the text counts its images."""
    return {**edit_constants(source, objective), "with_names": True}


FAMILY = replace(
    EDIT,
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    constants=constants,
    controls=Controls(
        maximum=FACTS.controls[1],
        fits=control_fits,
        units=(encode_control,),
        reads={"encode_text": "condition", "denoise": "control_latent"},
        fitted_by_pipeline=True,
        text_by_units=True,
    ),
)
