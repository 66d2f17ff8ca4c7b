"""Denoising diffusion in discrete steps (Ho et al. 2020, arXiv:2006.11239), as Stable Diffusion has it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from limner.errors import BadBase
from limner.nn.batch import to_device

EPSILON, VELOCITY = "epsilon", "v_prediction"
"""What a denoiser says: the noise, or Salimans and Ho's velocity (arXiv:2202.00512, section 4)."""


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


def min_snr(prediction: str, alpha_bar: Tensor, gamma: float) -> Tensor:
    """Weights (B,) that cap what easy steps count (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    min(SNR, gamma) / SNR for the noise, min(SNR, gamma) / (SNR + 1) for the velocity, where SNR is
    left / (1 - left).
    """
    snr = alpha_bar / (1 - alpha_bar)
    numerator = snr.clamp(max=gamma)
    return numerator / (snr + 1 if prediction == VELOCITY else snr)
