"""Denoising diffusion in discrete steps (Ho et al. 2020, arXiv:2006.11239), and its families' units."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadBase, BadRecipe
from limner.graph.unit import unit
from limner.models import rectified
from limner.models.facts import COMMON, EPSILON, VELOCITY
from limner.models.family import Objective, SamplingParams
from limner.models.sampling import WORDS
from limner.models.source import Source
from limner.nn.arch import ArchSpec
from limner.nn.rng import Draw, to_device


@dataclass(frozen=True)
class Steps:
    """The noise added step by step.

    Raises:
        BadBase: An unknown kind of schedule, on first use.
    """

    first: float
    """Variance added by the first step."""
    last: float
    kind: str
    """``linear``, or ``scaled_linear``: linear in the square root, as Stable Diffusion has it."""
    count: int = 1000
    dark: bool = False
    """Whether the last step is pure noise (zero terminal SNR: Lin et al. 2023, arXiv:2305.08891)."""

    @cached_property
    def kept(self) -> Tensor:
        """(count,): share of the image's variance that is left after each step, in fp32."""
        if self.kind == "linear":
            betas = torch.linspace(self.first, self.last, self.count)
        elif self.kind == "scaled_linear":
            betas = torch.linspace(self.first**0.5, self.last**0.5, self.count) ** 2
        else:
            raise BadBase(
                f"The scheduler's beta_schedule is {self.kind!r}; linear and scaled_linear are known."
            )
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        return darkened(alphas_cumprod) if self.dark else alphas_cumprod

    def number(self, time: Tensor) -> Tensor:
        """Times (B,) in [0, 1) -> step numbers (B,), 0 to count - 1."""
        return (time * self.count).long().clamp(0, self.count - 1)

    def left(self, time: Tensor) -> Tensor:
        """Times (B,) -> share of the image's variance that is left, (B,)."""
        return to_device(self.kept, time.device)[self.number(time)]


def darkened(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(kept): its last value becomes 0, its first stays (Lin et al., algorithm 1)."""
    root = alphas_cumprod.sqrt()
    scaled_root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return scaled_root**2


def noisy(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(left) x_0 + sqrt(1 - left) e; ``left`` (B,) is broadcast over the rest."""
    share = alpha_bar.view(-1, *[1] * (clean.ndim - 1)).to(clean.dtype)
    return share.sqrt() * clean + (1 - share).sqrt() * noise


def wanted(prediction: str, clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the denoiser is asked to say: the noise, or v = sqrt(left) e - sqrt(1 - left) x_0."""
    if prediction == EPSILON:
        return noise
    share = alpha_bar.view(-1, *[1] * (clean.ndim - 1)).to(clean.dtype)
    return share.sqrt() * noise - (1 - share).sqrt() * clean


def snr_weights(prediction: str, alpha_bar: Tensor, gamma: float) -> Tensor:
    """Weights (B,) that cap what easy steps count (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    min(SNR, gamma) / SNR for the noise, min(SNR, gamma) / (SNR + 1) for the velocity, where SNR is
    left / (1 - left).
    """
    snr = alpha_bar / (1 - alpha_bar)
    numerator = snr.clamp(max=gamma)
    return numerator / (snr + 1 if prediction == VELOCITY else snr)


SUPPORTED_OPTIONS = COMMON | {"time_density", "prediction", "min_snr", "noise_offset", "zero_terminal_snr"}
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
def draw_time(latent: Tensor, draw: Draw, *, time_density: str, noise_range: tuple[float, float]) -> Tensor:
    """(B,) in (0, 1), 1 = noise."""
    return rectified.within(rectified.density(time_density, draw.uniform("time", latent)), noise_range)


@unit("target")
def aim(latent: Tensor, noise: Tensor, time: Tensor, *, steps: Steps, prediction: str) -> Tensor:
    """What the denoiser is asked to say, of the shape of the latent."""
    return wanted(prediction, latent, noise, steps.left(time))


@unit("loss")
def measure(  # noqa: PLR0913  two objectives and a weight
    pred: Tensor,
    target: Tensor,
    time: Tensor,
    *loss_weights: Tensor,
    steps: Steps,
    prediction: str,
    min_snr: float,
    loss_form: rectified.LossForm,
) -> Tensor:
    """Mean error of each sample, (B,), in fp32, weighted if ``min_snr`` is not 0, and as masks say."""
    loss = rectified.loss_of(pred, target, time, loss_form, *loss_weights)
    return loss * snr_weights(prediction, steps.left(time), min_snr) if min_snr else loss


def constants(source: Source, objective: Objective) -> Mapping[str, Any]:
    """What the base's scheduler decides, unless the recipe decides otherwise.

    Raises:
        BadRecipe: Pure noise at the last step, for a denoiser that names the noise it is shown.
    """
    sampler = source.config("scheduler")
    prediction = WORDS.get(objective.prediction or "", sampler.get("prediction_type", EPSILON))
    if prediction not in WORDS.values():
        raise ValueError(f"prediction_type is {prediction!r}; known: {', '.join(WORDS.values())}")
    dark = objective.zero_terminal_snr
    if dark is None:
        dark = bool(sampler.get("rescale_betas_zero_snr"))
    if dark and prediction == EPSILON:
        raise BadRecipe(
            "train.zero_terminal_snr is true and the base predicts the noise: at the last step that teaches "
            'nothing. Remove it; or set train.prediction = "v", if the base was made so.'
        )
    density = objective.time_density or "uniform"
    return {
        "steps": Steps(
            float(sampler["beta_start"]),
            float(sampler["beta_end"]),
            str(sampler["beta_schedule"]),
            int(sampler.get("num_train_timesteps", 1000)),
            dark,
        ),
        "prediction": prediction,
        "min_snr": objective.min_snr,
        "noise_offset": objective.noise_offset,
        "time_density": rectified.SHIFTLESS.get(density, density),
        **rectified.loss_constants(objective),
    }


def pipeline_kwargs(source: Source, params: SamplingParams, guidance: float) -> dict[str, Any]:
    """Arguments of the stock pipeline. ``guidance`` is the family's own, 1 is none."""
    return {
        "negative_prompt": "",
        "guidance_scale": params.strength(source, guidance),
        **params.call_kwargs,
    }
