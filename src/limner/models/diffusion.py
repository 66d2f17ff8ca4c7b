"""Units and constants of the families that denoise in discrete steps, as Stable Diffusion does."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from limner.errors import BadRecipe
from limner.graph.unit import unit
from limner.models import rectified
from limner.models.family import Objective, SamplingParams
from limner.models.scheduler import WORDS
from limner.models.source import Source
from limner.nn import ddpm
from limner.nn.arch import ArchSpec
from limner.nn.rng import Draw

SUPPORTED_OPTIONS = frozenset({"time_density", "prediction", "min_snr", "noise_offset", "zero_terminal_snr"})
"""Wishes of a recipe that these families can grant."""

BLOCK_PATHS = ("down_blocks.*", "mid_block", "up_blocks.*")
ARCH = ArchSpec(
    blocks=tuple(f"{path}.resnets.*|{path}.attentions.*.transformer_blocks.*" for path in BLOCK_PATHS),
    modulations=tuple(f"{path}.resnets.*.time_emb_proj" for path in BLOCK_PATHS),
    conditions=("time_embedding", "add_embedding"),
    tails=tuple(f"{path}.attentions.*.transformer_blocks.*.ff.net.2" for path in BLOCK_PATHS),
)
"""Of both convolutional denoisers, whose depth no single number of the config says."""

CONVOLUTIONS = (
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    *("downsamplers.*.conv", "upsamplers.*.conv"),
)
"""Layers outside the transformers that a LoCon trains, as sd-scripts does with ``conv_dim``."""


@unit("noise")
def draw_noise(latent: Tensor, draw: Draw, *, noise_offset: float) -> Tensor:
    """(B, C, h, w), with one more number per channel at a share of ``noise_offset``.

    Source: N. Guttenberg, "Diffusion with offset noise" (2023); diffusers,
    ``train_text_to_image_lora_sdxl.py``.
    """
    noise = draw.normal("noise", latent)
    if not noise_offset:
        return noise
    return noise + noise_offset * draw.normal("noise_offset", latent[..., :1, :1])


@unit("time")
def draw_time(latent: Tensor, draw: Draw, *, time_density: str) -> Tensor:
    """(B,) in (0, 1), 1 = noise."""
    return rectified.density(time_density, draw.uniform("time", latent))


@unit("loss")
def measure(  # noqa: PLR0913  two objectives and a weight
    pred: Tensor,
    latent: Tensor,
    noise: Tensor,
    time: Tensor,
    *,
    steps: ddpm.Steps,
    prediction: str,
    min_snr: float,
) -> Tensor:
    """Mean squared error of each sample, (B,), in fp32, weighted if ``min_snr`` is not 0."""
    remaining = steps.left(time)
    target = ddpm.wanted(prediction, latent, noise, remaining)
    loss = (pred.float() - target.float()).square().flatten(1).mean(1)
    return loss * ddpm.min_snr(prediction, remaining, min_snr) if min_snr else loss


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's scheduler decides, unless the recipe decides otherwise.

    Raises:
        BadRecipe: Pure noise at the last step, for a denoiser that names the noise it is shown.
    """
    sampler = source.config("scheduler")
    prediction = WORDS.get(objective.prediction or "", sampler.get("prediction_type", ddpm.EPSILON))
    if prediction not in WORDS.values():
        raise ValueError(f"prediction_type is {prediction!r}; known: {', '.join(WORDS.values())}")
    dark = objective.zero_terminal_snr
    if dark is None:
        dark = bool(sampler.get("rescale_betas_zero_snr"))
    if dark and prediction == ddpm.EPSILON:
        raise BadRecipe(
            "train.zero_terminal_snr is true and the base predicts the noise: at the last step that teaches "
            'nothing. Remove it; or set train.prediction = "v", if the base was made so.'
        )
    density = objective.time_density or "uniform"
    return {
        "steps": ddpm.Steps(
            float(sampler["beta_start"]),
            float(sampler["beta_end"]),
            str(sampler["beta_schedule"]),
            int(sampler.get("num_train_timesteps", 1000)),
            dark,
        ),
        "prediction": prediction,
        "min_snr": objective.min_snr,
        "noise_offset": objective.noise_offset,
        "time_density": "logit-normal" if density == "sigmoid" else density,
    }


def pipeline_kwargs(source: Source, params: SamplingParams, guidance: float) -> dict[str, Any]:
    """Arguments of the stock pipeline. ``guidance`` is the family's own, 1 is none."""
    return {
        "negative_prompt": "",
        "guidance_scale": params.strength(source, guidance),
        **params.call_kwargs,
    }
