"""Rectified flow, a straight path from data to noise (Liu et al. 2022, arXiv:2209.03003), and its units."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from limner.errors import BadRecipe
from limner.graph.unit import Unit, unit
from limner.models.facts import COMMON, Objective
from limner.models.source import Source
from limner.nn.rng import Draw


def noisy(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t e, with t in [0, 1], (B,), broadcast over the rest."""
    t = time.view(-1, *[1] * (clean.ndim - 1))
    return (1 - t) * clean + t * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """dx_t / dt: what the denoiser is asked to say, the same at every t."""
    return noise - clean


def density(name: str, uniform: Tensor, width: float = 1.0) -> Tensor:
    """Turn uniform numbers in (0, 1) into times in (0, 1), by the inverse of the density's CDF.

    ``logit-normal`` with mean 0 and that width, mostly 1 (Esser et al. 2024, arXiv:2403.03206, section 3.1),
    which the kohya tools call ``sigmoid``; or ``uniform``. ``content`` and ``style`` are the cubes of Mou et
    al. (2023, arXiv:2302.08453, section 3.4) that ai-toolkit has for ``content_or_style``: near noise, and
    near the image. The inverse CDF lets quantiles stand in for draws.
    """
    if name == "uniform":
        return uniform
    if name == "content":
        return 1 - (1 - uniform) ** 3
    if name == "style":
        return uniform**3
    normal = torch.special.ndtri(uniform)
    return torch.sigmoid(normal if width == 1.0 else width * normal)


def within(time: Tensor, noise_range: tuple[float, float]) -> Tensor:
    """Times in (0, 1) laid between two noise levels; untouched where that is all of them."""
    low, high = noise_range
    return time if noise_range == (0.0, 1.0) else low + (high - low) * time


@dataclass(frozen=True)
class LossForm:
    """How the error of a number counts."""

    kind: str = "mse"
    """``mse``, ``l1``, ``huber`` or ``smooth_l1``."""
    huber_c: float = 0.1
    """Where a pseudo-Huber loss turns from square to straight, at pure noise."""
    huber_schedule: str = "exponential"
    """``exponential``: from 1 at time 0 to ``huber_c`` at time 1. ``constant``."""

    def threshold(self, time: Tensor) -> Tensor:
        """C of each sample, (B,), in fp32: ``huber_c ** time``, or ``huber_c``."""
        power = time.float() if self.huber_schedule == "exponential" else torch.ones_like(time.float())
        return self.huber_c**power


def loss_of(pred: Tensor, target: Tensor, time: Tensor, form: LossForm, *loss_weights: Tensor) -> Tensor:
    """The mean loss of each sample, (B,), in fp32.

    Pseudo-Huber: 2 c (sqrt(e^2 + c^2) - c), which is e^2 near 0; of ``smooth_l1`` divided by c, so that it
    is 2 |e| far out. As sd-scripts names and scales them (``loss_type``, ``huber_c``).

    Args:
        pred: (B, C, h, w).
        target: Likewise.
        time: (B,) in [0, 1].
        form: How an error counts.
        loss_weights: None, or what each place counts, (B, 1, h, w), 1 on average in each sample.
    """
    error = pred.float() - target.float()
    if form.kind == "mse":
        loss = error.square()
    elif form.kind == "l1":
        loss = error.abs()
    else:
        c = form.threshold(time).view(-1, *[1] * (error.ndim - 1))
        rest = (error.square() + c**2).sqrt() - c
        loss = 2 * (c * rest if form.kind == "huber" else rest)
    for weight in loss_weights:
        loss = loss * weight
    return loss.flatten(1).mean(1)


def shifted(time: Tensor, shift: float) -> Tensor:
    """S t / (1 + (s - 1) t): larger shifts spend more time near noise (Esser et al. 2024, section 5.3.2)."""
    return shift * time / (1 + (shift - 1) * time)


def resolution_shift(
    tokens: int, low: float = 0.5, high: float = 1.15, few: float = 256, many: float = 4096
) -> float:
    """FLUX's shift exp(mu), mu linear in the number of image tokens: low at few, high at many.

    Source: black-forest-labs/flux, ``sampling.py``, ``get_schedule``.
    """
    return math.exp(low + (high - low) * (tokens - few) / (many - few))


def empirical_shift(tokens: int, steps: int = 50) -> float:
    """FLUX.2's shift exp(mu): a line in the number of image tokens, fitted for 10 and for 200 steps.

    Source: black-forest-labs/flux2, ``sampling.py``, ``compute_empirical_mu``.
    """
    for_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return math.exp(for_200)
    for_10 = 8.73809524e-05 * tokens + 1.89833333
    return math.exp(for_200 + (for_10 - for_200) * (200 - steps) / 190)


@unit("start")
def start_noise(latent_mean: Tensor, seed: Tensor) -> Tensor:
    """(B, C, h, w) in fp32: what the stock pipeline draws first for each seed."""
    seeds = [0] * len(seed) if seed.is_meta else seed.tolist()
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    rows = [torch.randn(latent_mean.shape[1:], generator=generator) for generator in generators]
    return torch.stack(rows).to(latent_mean.device)


@dataclass(frozen=True)
class Spacing:
    """Where the times of a sampler's steps stand (``FlowMatchEulerDiscreteScheduler`` of diffusers)."""

    minimum: float = 0.0
    """Smallest time of training before its shift, where the last step begins; 0: at 1 / steps."""
    terminal: float = 0.0
    """Where the last step begins once times are shifted and stretched (``shift_terminal``); 0: anywhere."""

    def times(self, steps: int, shift: float) -> list[float]:
        """Times of Euler steps, from 1 to 0, both included: steps + 1 of them, shifted as the sampler's."""
        end = shifted(torch.tensor(self.minimum), shift).item() if self.minimum else 1.0 / steps
        times = shifted(torch.linspace(1.0, end, steps), shift)
        if self.terminal and steps > 1:
            times = 1 - (1 - times) * ((1 - self.terminal) / (1 - times[-1]))
        return [*times.tolist(), 0.0]


def sample(
    *inputs: Any,
    denoise: Unit,
    names: tuple[str, ...],
    steps: int,
    shift: float | Callable[[int], float],
    spacing: Spacing,
    patch: int,
) -> Tensor:
    """Sample by Euler's method with a gradient through all steps: (B, C, h, w) in fp32.

    Each step keeps what it starts from, and is computed again when its gradient is due. The denoiser is given
    the state as its latent and as its noise, which any time mixes into the state itself.

    Args:
        inputs: The models of ``denoise``, then the values ``names``.
        denoise: The family's unit that writes the velocity.
        names: ``start`` (B, C, h, w), and what else the denoiser reads.
        steps: How many.
        shift: Of the times, or a function of the number of tokens.
        spacing: Of the times.
        patch: Side in latent pixels of the patch that is one token.
    """
    models, values = inputs[: len(denoise.uses)], dict(zip(names, inputs[len(denoise.uses) :], strict=True))
    state = values.pop("start").float()
    if steps == 1 and torch.is_grad_enabled():
        state = state.detach().requires_grad_()  # a step like any but the first, whose input has a gradient

    def step(state: Tensor, time: Tensor, length: float) -> Tensor:
        read = {**values, "latent": state, "noise": state, "time": time}
        return (
            state
            + length * denoise.function(*models, *map(read.get, denoise.reads), **denoise.constants).float()
        )

    tokens = state[0, 0].numel() // patch**2
    times = spacing.times(steps, shift(tokens) if callable(shift) else shift)
    for now, then in pairwise(times):
        time = torch.full((len(state),), now, device=state.device)
        if steps > 1 and torch.is_grad_enabled():
            state = checkpoint(step, state, time, then - now, use_reentrant=False, preserve_rng_state=False)
        else:
            state = step(state, time, then - now)
    return state


@unit("loss")
def measure_sampled(sampled: Tensor, latent_mean: Tensor, *, loss_form: LossForm) -> Tensor:
    """Mean error of each picture's final latent, (B,), in fp32."""
    return loss_of(sampled, latent_mean, torch.ones(len(sampled), device=sampled.device), loss_form)


def distilled(
    units: Sequence[Unit], steps: int, sampler: Mapping[str, Any], *, to_minimum: bool = False
) -> tuple[Unit, ...]:
    """The units of a student that samples in so many steps: what draws goes, the denoiser becomes a sampler.

    ``start_noise`` is frozen, and is stored; live are the sampler and the loss alone. Direct distillation, as
    DiffSynth-Studio has it (``DirectDistillLoss``).

    Args:
        units: The family's, bound.
        steps: Of the student.
        sampler: Config of the base's sampler.
        to_minimum: Whether the pipeline leaves the times to the sampler, which goes down to the smallest time
            of training; else it gives times down to 1 / steps.
    """
    count = int(sampler.get("num_train_timesteps", 1000))
    spacing = Spacing(1 / count if to_minimum else 0.0, float(sampler.get("shift_terminal") or 0.0))
    denoise = next(unit for unit in units if "pred" in unit.writes)
    times, target, measure = (
        next(unit for unit in units if name in unit.writes) for name in ("time", "target", "loss")
    )
    shift = times.constants["time_shift"]
    if shift is empirical_shift:  # it knows the number of steps
        shift = partial(empirical_shift, steps=steps)
    names = ("start", *(name for name in denoise.reads if name not in ("latent", "noise", "time")))
    sampling = Unit(
        name="sample",
        function=sample,
        uses=denoise.uses,
        reads=names,
        writes=("sampled",),
        draws=False,
        version=1,
        constants={
            "denoise": denoise,
            "names": names,
            "steps": steps,
            "shift": shift,
            "spacing": spacing,
            "patch": times.constants["patch"],
        },
    )
    others = [unit for unit in units if not unit.draws and unit not in (denoise, target, measure)]
    return (*others, start_noise, sampling, measure_sampled.bind(**measure.constants))


SHIFT_RANGE = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
SHIFTLESS = {"sigmoid": "logit-normal", "content": "content", "style": "style"}
"""What other trainers call a density that they do not shift -> ours; kohya's tools, ai-toolkit."""
SUPPORTED_OPTIONS = frozenset({"time_density", "time_shift"}) | COMMON
"""Wishes of a recipe that a rectified flow can grant."""


@unit("time")
def draw_time(
    latent: Tensor,
    draw: Draw,
    *,
    time_density: str,
    time_shift: float | Callable[[int], float],
    time_width: float,
    patch: int,
    noise_range: tuple[float, float],
) -> Tensor:
    """(B,) in (0, 1), 1 = noise. ``time_shift`` may depend on the number of tokens, as samplers have it."""
    tokens = latent[0, 0].numel() // patch**2
    shift = time_shift(tokens) if callable(time_shift) else time_shift
    time = density(time_density, draw.uniform("time", latent), time_width)
    return within(shifted(time, shift), noise_range)


@unit("target")
def aim(latent: Tensor, noise: Tensor) -> Tensor:
    """The velocity that the denoiser is asked for, of the shape of the latent."""
    return velocity(latent, noise)


@unit("loss")
def measure(pred: Tensor, target: Tensor, time: Tensor, *loss_weights: Tensor, loss_form: LossForm) -> Tensor:
    """Mean error of each sample's velocity, (B,), in fp32; with masks, as their weights say."""
    return loss_of(pred, target, time, loss_form, *loss_weights)


def times(
    source: Source, objective: Objective, *, patch: int = 2, shift_rule: Callable[[int], float] | None = None
) -> Mapping[str, Any]:
    """Constants of :func:`draw_time`: as the base's sampler shifts, unless the recipe says otherwise.

    Args:
        source: The base, whose scheduler/ says how it samples.
        objective: The recipe's wishes.
        patch: Side in latent pixels of the patch that is one token.
        shift_rule: Number of tokens -> shift, for a base whose pipeline has a rule of its own.
    """
    sampler = source.config("scheduler")
    low, high, min_tokens, max_tokens = (float(sampler.get(key, value)) for key, value in SHIFT_RANGE.items())
    shift_rule = shift_rule or partial(resolution_shift, low=low, high=high, few=min_tokens, many=max_tokens)
    fixed_shift = float(sampler.get("shift", sampler.get("flow_shift", 1.0)))
    base_shift = shift_rule if sampler.get("use_dynamic_shifting") else fixed_shift
    density = objective.time_density or "logit-normal"
    if density in SHIFTLESS:
        density, base_shift = SHIFTLESS[density], 1.0
    return {
        "time_density": density,
        "time_width": 1.0,
        "time_shift": base_shift if objective.time_shift is None else objective.time_shift,
        "patch": patch,
        **loss_constants(objective),
    }


def loss_constants(objective: Objective) -> Mapping[str, Any]:
    """What of the recipe's wishes every family's loss and times read."""
    form = LossForm(objective.loss, objective.huber_c, objective.huber_schedule)
    return {"noise_range": objective.noise_range, "loss_form": form}


def text_length(source: Source, default: int = 512) -> int:
    """Tokens of a caption that are read: what the base says, or what is ``default`` for its family."""
    return source.facts.get("text_length", default)


def constants(
    source: Source,
    objective: Objective,
    *,
    tokens: int = 512,
    patch: int = 2,
    shift_rule: Callable[[int], float] | None = None,
) -> Mapping[str, Any]:
    """What every rectified flow reads of its base's configs: :func:`text_length` and :func:`times`."""
    return {
        "text_length": text_length(source, tokens),
        **times(source, objective, patch=patch, shift_rule=shift_rule),
    }


def guidance(source: Source, objective: Objective, denoiser: str = "transformer") -> float | None:
    """The guidance that the denoiser is told of while it trains; None when it has no such input.

    Raises:
        BadRecipe: It has none, and the recipe names one.
    """
    if source.config(denoiser).get("guidance_embeds"):
        return objective.guidance
    if objective.guidance != Objective.guidance:
        raise BadRecipe(
            f"train.guidance is {objective.guidance:g}, and {source.name} has no input for guidance "
            f"({denoiser}/config.json: guidance_embeds). Remove it; sample.guidance is for pictures."
        )
    return None
