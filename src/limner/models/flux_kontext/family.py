"""FLUX.1 Kontext (Black Forest Labs 2025, arXiv:2506.15742): FLUX.1 that sees a picture and edits it.

Weights: black-forest-labs/FLUX.1-Kontext-dev (guidance-distilled, non-commercial, gated). The denoiser is
that of FLUX.1 dev. The control image is encoded by the same autoencoder, and its tokens stand behind those of
the noisy latent, with 1 as the first number of their position. Objective: diffusers,
``train_dreambooth_lora_flux_kontext.py``, but for the control latent: the mean of its posterior, as the
pipeline reads it, not a sample.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from limner.data.control import ControlFit
from limner.models.family import Controls, SamplingParams
from limner.models.flux.family import FAMILY as FLUX
from limner.models.flux.family import pipeline_kwargs as flux_kwargs
from limner.models.flux_kontext.facts import FACTS
from limner.models.latents import encode_control
from limner.models.source import Source

SIDES = (672, 688, 720, 752, 800, 832, 880, 944, 1024, 1104, 1184, 1248, 1328, 1392, 1456, 1504, 1568)
SIZES = tuple(zip(SIDES, reversed(SIDES), strict=True))
"""(width, height) in pixels that the base was trained on: diffusers' ``PREFERRED_KONTEXT_RESOLUTIONS``."""
MADE_FOR = 1024
MULTIPLE = 16
GUIDANCE = 2.5
"""As in the example of diffusers' pipeline."""


def control_size(width: int, height: int, *, resolution: int) -> tuple[int, int]:
    """The size of the base's own whose shape is nearest. A base for another area has them in proportion."""
    _, *sides = min((abs(width / height - wide / high), wide, high) for wide, high in SIZES)
    scale = resolution / MADE_FOR
    wide, high = (max(1, round(side * scale / MULTIPLE)) * MULTIPLE for side in sides)
    return wide, high


def control_fits(resolution: int) -> Mapping[str, ControlFit]:
    """The one size of a control image."""
    return {"control": ControlFit(partial(control_size, resolution=resolution), MULTIPLE)}


def pipeline_kwargs(source: Source, params: SamplingParams) -> dict[str, Any]:
    """As FLUX.1's. The pipeline would make every picture one of a megapixel, and fit the control itself."""
    strength = params.strength(source, GUIDANCE)
    return {
        **flux_kwargs(source, replace(params, guidance=strength)),
        "max_area": params.width * params.height,
        "_auto_resize": False,
    }


FAMILY = replace(
    FLUX,
    name=FACTS.name,
    pipeline=FACTS.pipeline,
    pipeline_kwargs=pipeline_kwargs,
    controls=Controls(
        maximum=FACTS.controls[1],
        fits=control_fits,
        units=(encode_control,),
        reads={"denoise": "control_latent"},
    ),
)
