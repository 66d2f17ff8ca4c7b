"""The loop. It knows parameters and losses; it does not know recipes, files, samples or families."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from limner.errors import BadCheckpoint, Diverged, DoesNotFit
from limner.nn.memory.offload import HalfGradients

Losses = Callable[[int], Iterable[Tensor]]
"""Step -> the losses of its micro-batches, scalars that sum to the loss of the effective batch."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step was. Losses and norms are those before the weights moved."""

    number: int
    """Steps finished, so the first one is 1."""
    loss: float
    norm: float
    """Length of the whole gradient before clipping."""
    rate: float
    """Multiplier of the learning rates at this step."""
    repeats: int = 0
    """How often it was computed again, from the same draws, because its scaled gradient overflowed."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What is trained and how far each step goes."""

    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    """Step, from 0 -> multiplier of every group's ``initial_lr``."""
    scaler: torch.amp.GradScaler = field(default_factory=partial(torch.amp.GradScaler, "cpu", enabled=False))
    """Scales the loss so that gradients in fp16 are neither 0 nor infinite (Micikevicius 2018, section 3.2,
    arXiv:1710.03740): by half as much after an overflow, by twice as much after many steps without one."""
    clip: float = 0.0
    """Largest length of the gradient; 0 leaves it alone."""
    average: "Average | None" = None
    share: Callable[[Sequence[nn.Parameter], Tensor], Tensor] | None = None
    """Sums gradients and the loss over processes, when there are several; returns the summed loss."""
    norm: Callable[[Sequence[nn.Parameter]], Tensor] | None = None
    """The length of the whole gradient, where each process has a part of it."""
    anyone: Callable[[bool], bool] = bool
    """Whether any process says so: all give a step up when one of them ran out of memory."""
    half_gradients: HalfGradients | None = None
    """Who keeps gradients in bf16 until the optimizer steps, if they are."""
    reserve: tuple[int, int] = (0, 0)
    """Bytes of the device that summing gradients and the optimizer take, in its first step and in later ones.

    They are asked for before either begins: an optimizer that runs out of memory has moved some of the
    weights, and processes that wait for a sum cannot be told.
    """


def fit(config: Fit, losses: Losses, *, start: int, steps: int) -> Iterator[Step]:
    """Train from step ``start`` to ``steps``, yielding after each optimizer step.

    Saving, sampling, evaluating and logging are what the caller does between two steps; stopping is what
    the caller does by leaving. Nothing here keeps state besides the optimizer and the weights.

    Raises:
        Diverged: The loss or the gradient is not finite. The weights are those of the last good step.
        OutOfMemoryError: The gradient did not fit. The weights are those of the last step and no gradient is
            left: with less memory in use, training may start again at the step after it.
        DoesNotFit: The optimizer ran out of memory while it moved the weights, which are of no step now.
    """
    optimizer = config.optimizer
    for step in range(start, steps):
        rate = config.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        try:
            loss, norm, repeats, factor = _gradient(config, losses, step)
        except torch.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)  # or the next try would add to them
            if config.half_gradients:
                config.half_gradients.clear()
            raise
        _move(config, step, factor)
        config.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if config.average:
            config.average.update(step)
        yield Step(step + 1, loss, norm, rate, repeats)


def _gradient(config: Fit, losses: Losses, step: int) -> tuple[float, float, int, Tensor | None]:
    """Put a step's gradient into the parameters, clipped.

    Returns:
        The loss, the gradient's length before, repeats, and what clips gradients that are kept in bf16.
    """
    loss, length, norm = _unscaled(config, losses, step)
    repeats = 0
    while math.isfinite(loss) and not math.isfinite(norm) and _can_fall(config.scaler):
        config.scaler.update()
        config.optimizer.zero_grad(set_to_none=True)
        loss, length, norm = _unscaled(config, losses, step)
        repeats += 1
    if not math.isfinite(loss) or not math.isfinite(norm):
        remedy = "Halve train.learning_rate; if that does not help, find the bad image with train.batch = 1."
        if config.scaler.is_enabled():
            remedy = f'{remedy} Or set limits.compute_dtype = "fp32": fp16 ends at 65504.'
        raise Diverged(f"Step {step + 1}: loss {loss:.4g}, gradient norm {norm:.4g}. {remedy}")
    factor = None
    if config.clip and norm > config.clip:
        if config.half_gradients:
            factor = (config.clip / (length + 1e-6)).clamp(max=1.0)  # as torch clips
        else:
            nn.utils.clip_grads_with_norm_(config.parameters, config.clip, length)
    return loss, norm, repeats, factor


def _can_fall(scaler: torch.amp.GradScaler) -> bool:
    """Whether a smaller scale of the loss may help: one of 1 is none."""
    return scaler.is_enabled() and scaler.get_scale() > 1.0


def _unscaled(config: Fit, losses: Losses, step: int) -> tuple[float, Tensor, float]:
    """Put a step's gradient into the parameters. The loss, and the gradient's length, here and there."""
    total = _backward(config, losses, step)
    if config.share:
        total = config.share(config.parameters, total)
    config.scaler.unscale_(config.optimizer)
    if config.half_gradients:
        length = config.half_gradients.norm(config.parameters)
    elif config.norm:
        length = config.norm(config.parameters)
    else:
        length = nn.utils.get_total_norm([p.grad for p in config.parameters if p.grad is not None])
    return total.item(), length, length.item()  # the one place where the host waits for the device


def _backward(config: Fit, losses: Losses, step: int) -> Tensor:
    """Put the gradients of this process's micro-batches into the parameters. Their loss.

    Raises:
        OutOfMemoryError: This process or another has not enough memory.
    """
    total = torch.zeros((), device=config.parameters[0].device)
    short: str | None = None
    try:
        for loss in losses(step):
            config.scaler.scale(loss).backward()
            total += loss.detach().to(total.device)
        _require_memory(config)
    except torch.OutOfMemoryError as error:
        short = str(error)  # no more of it: its frames hold the tensors that were too many
    if config.anyone(short is not None):
        raise torch.OutOfMemoryError(short or "Another process ran out of memory.")
    return total


def _require_memory(config: Fit) -> None:
    """Have the allocator take what comes next from the device, while nothing has moved yet.

    Raises:
        OutOfMemoryError: It is not there.
    """
    first, later = config.reserve
    if size := later if config.optimizer.state else first:
        torch.empty(size, dtype=torch.uint8, device=config.parameters[0].device)


def _move(config: Fit, step: int, factor: Tensor | None) -> None:
    halves = config.half_gradients
    try:
        for _ in halves.portions(config.parameters, factor) if halves else (None,):
            config.optimizer.step()
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"Memory ran out while the optimizer took step {step + 1}, so some weights have moved and others "
            "have not. The same command goes on from the newest checkpoint; lower --vram by 1GB, or set "
            'train.optimizer = "adamw8bit".'
        ) from error


class Average:
    """Exponential moving average of weights, which warms up so that early weights are soon forgotten."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, *, in_place: bool = False) -> None:
        """``in_place``: others hold the memory of the weights, so that numbers are exchanged, not tensors."""
        self.parameters = list(parameters)
        self.decay, self.in_place = decay, in_place
        self.shadow = [p.detach().clone() for p in parameters]

    def start(self, shadow: Sequence[Tensor]) -> None:
        """Go on from an average that was saved, or begin at weights.

        Raises:
            BadCheckpoint: The shapes are not those of the weights.
        """
        shapes = [tensor.shape for tensor in shadow if isinstance(tensor, Tensor)]
        if shapes != [parameter.shape for parameter in self.parameters]:
            raise BadCheckpoint("The average belongs to other weights. Use another checkpoint.")
        self.shadow = [tensor.detach().clone().to(self.parameters[0].device) for tensor in shadow]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights by 1 - min(decay, (1 + step) / (10 + step))."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and average; a second call restores them. Takes no memory, or that of a weight."""
        for number, weight in enumerate(self.parameters):
            if self.in_place:
                before = weight.detach().clone()
                weight.copy_(self.shadow[number])
                self.shadow[number].copy_(before)
            else:
                weight.data, self.shadow[number] = self.shadow[number], weight.data
