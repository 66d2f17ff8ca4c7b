"""Optimizers, made from their records in ``recipe.optimizers``, and learning-rate schedules by name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe, first_line
from limner.recipe.optimizers import OPTIMIZERS, Optimizer, optimizer_of

EMPTY: Mapping[str, Any] = MappingProxyType({})

Group = dict[str, Any]
"""``{"params": [..], "lr": float}``, as torch has it."""


@dataclass(frozen=True)
class ScheduleForm:
    """What further decides the form of some schedules."""

    cycles: int = 1
    """Of ``cosine_with_restarts``."""
    power: float = 1.0
    """Of ``polynomial``."""
    decay: int | None = None
    """Of ``warmup_stable_decay``: steps at the end; None: a tenth of all."""


SCHEDULES = ("constant", "cosine", "linear", "cosine_with_restarts", "polynomial", "warmup_stable_decay")

FUSED = ("cuda", "cpu", "mps", "xpu")
"""Device types with a fused AdamW kernel in torch >= 2.7."""

LOWEST_MULTIPLIER = 0.1
"""An optimizer that finds its rate multiplies it by the learning rate: less is surely AdamW's number."""


def optimizer(
    name: str,
    groups: Sequence[Group],
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    schedule: str = "constant",
    warmup: int = 0,
    arguments: Mapping[str, Any] = EMPTY,
) -> torch.optim.Optimizer:
    """The optimizer called ``name``, in training mode, each group with its ``initial_lr``.

    * ``adamw``: torch's, in one fused kernel. Decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101).
    * ``adamw8bit``: moments in blocks of 8 bits (Dettmers et al., arXiv:2110.02861), by bitsandbytes. Tensors
      of fewer than 4096 values stay in float32.
    * ``pagedadamw8bit``: the same in memory that CUDA moves to the host when the device is short of it. A run
      that goes on keeps its state on the device: so bitsandbytes reads it back.
    * ``adafactor``: factored second moment, no first one: ``betas`` mean nothing to it (Shazeer & Stern,
      arXiv:1804.04235). That of transformers: torch's always scales a step by the size of the weight, so that
      LoRA's ``up``, which starts at 0, would move at a thousandth of the learning rate.
    * ``prodigy``: finds its own rate (Mishchenko & Defazio, arXiv:2306.06101); the learning rate multiplies
      it and is 1. One rate for all groups. Schedules multiply it as usual; a warm-up turns its safeguard on.
    * ``schedulefree``: averages instead of decaying (Defazio et al., arXiv:2405.15682). Schedule must be
      constant; warm-up from outside is the same as its own. See ``evaluation_mode``.

    Args:
        name: One of ``recipe.optimizers.OPTIMIZERS``.
        groups: Parameters with their learning rates (> 0).
        weight_decay: 0 or more, times the learning rate, off each weight per step.
        betas: Decay of the first and second moment, each in [0, 1).
        schedule: What will drive the rate: one of ``SCHEDULES``.
        warmup: Steps of warm-up that will drive the rate.
        arguments: Further arguments of the constructor.

    Raises:
        BadRecipe: Unknown name; a package is missing; no kernel for the device; a contradiction.
    """
    record = optimizer_of(name)
    _refuse_contradictions(record, [group["lr"] for group in groups], schedule)
    device = groups[0]["params"][0].device
    if record.paged and device.type != "cuda":
        raise BadRecipe(
            f"train.optimizer is {name!r}, which pages between a CUDA device and the host, and the device is "
            f'{device.type}. Set train.optimizer to "adamw8bit" or "adamw".'
        )
    options: dict[str, Any] = dict(record.options)
    if record.betas:
        options["betas"] = betas
    if record.fused:
        options["fused"] = device.type in FUSED
    if record.warmup_flag:
        options[record.warmup_flag] = warmup > 0
    factory = partial(_factory(record), **options, **arguments)
    if record.probed:
        _probe(record, factory, device)
    # `initial_lr` and the decay stand in the groups: Prodigy prints to stdout when it is given a decay
    own_groups = [group | {"initial_lr": group["lr"], "weight_decay": weight_decay} for group in groups]
    instance = _made(factory, own_groups, arguments)
    training_mode(instance)
    return instance


def _made(
    factory: Callable[..., torch.optim.Optimizer], groups: list[Group], arguments: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer; what it cannot be given is a ``BadRecipe``."""
    try:
        return factory(groups)
    except (TypeError, ValueError) as error:
        if not arguments:
            raise
        raise BadRecipe(f"train.optimizer_args: {first_line(error)}. Correct or remove it.") from error


def _refuse_contradictions(record: Optimizer, rates: list[float], schedule: str) -> None:
    if min(rates) <= 0:
        raise BadRecipe(f"train.learning_rate is {min(rates):g}. Give a number above 0.")
    if record.averages and schedule != "constant":
        raise BadRecipe(
            f"{record.name} takes the place of a schedule, and train.schedule is {schedule!r}. "
            'Set train.schedule to "constant", or train.optimizer to "adamw".'
        )
    if record.finds_rate and len(set(rates)) > 1:
        raise BadRecipe(
            f"{record.name} finds one learning rate for everything, and {len(set(rates))} are set. "
            "Remove train.text_encoder_learning_rate."
        )
    if record.finds_rate and rates[0] < LOWEST_MULTIPLIER:
        raise BadRecipe(
            f"{record.name} finds the rate itself and multiplies it by train.learning_rate, which is "
            f"{rates[0]:g}. Set train.learning_rate to 1."
        )


def _factory(record: Optimizer) -> Callable[..., Any]:
    """The constructor that a record names.

    Raises:
        BadRecipe: Its package is not installed.
    """
    module, _, name = record.factory.partition(":")
    try:
        factory = attrgetter(name)(import_module(module))
        if not (isinstance(factory, type) and issubclass(factory, torch.optim.Optimizer)):
            raise BadRecipe(
                f"train.optimizer is {record.name!r}, which is no class of torch's optimizers. Name one, or "
                f"one of: {', '.join(OPTIMIZERS)}."
            )
        return factory
    except AttributeError as error:
        raise BadRecipe(
            f"train.optimizer is {record.name!r}, and {module} has no {name}. Correct the path."
        ) from error
    except ModuleNotFoundError as error:
        if not record.package:
            raise
        extra = f" (or `pip install limner[{record.extra}]`)" if record.extra else ""
        raise BadRecipe(
            f"train.optimizer is {record.name!r}, and the package {record.package} is not installed. "
            f"Run `pip install {record.package}`{extra}."
        ) from error


def _probe(record: Optimizer, factory: Callable[..., Any], device: torch.device) -> None:
    """One trial step: which devices have the kernel changes with versions (0.50: cuda, rocm, xpu, cpu).

    Raises:
        BadRecipe: There is no kernel for the device.
    """
    weight = nn.Parameter(torch.zeros(4096, device=device))
    weight.grad = torch.zeros_like(weight)
    try:
        factory([weight]).step()
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if record.name not in OPTIMIZERS:
            raise BadRecipe(
                f"train.optimizer is {record.name!r}, and it cannot take a step here: {first_line(error)}. "
                "Correct train.optimizer_args, or choose another."
            ) from error
        raise BadRecipe(
            f"{record.package} has no {record.title} for {device.type}. "
            'Set train.optimizer to "adafactor", which also needs little memory, or to "adamw".'
        ) from error


def schedule(name: str, warmup: int, steps: int, form: ScheduleForm | None = None) -> Callable[[int], float]:
    """Step, from 0, -> multiplier of the learning rate, in (0, 1]: it depends on nothing else.

    The warm-up rises in a line, from 1/warmup at step 0 to 1 at step ``warmup - 1``. From there on ``cosine``
    (arXiv:1608.03983), ``linear`` and ``polynomial`` fall so as to reach 0 at step ``steps``, the first one
    that is not run; ``cosine_with_restarts`` does so ``cycles`` times, and ``warmup_stable_decay`` in its
    last ``decay`` steps, by a cosine (Hu et al. 2024, arXiv:2404.06395).

    Raises:
        BadRecipe: Unknown name, or no step is left after the warm-up.
    """
    if name not in SCHEDULES:
        raise BadRecipe(f"train.schedule is {name!r}, which is none of: {', '.join(SCHEDULES)}.")
    if not 0 <= warmup < steps:
        raise BadRecipe(f"train.warmup is {warmup} of {steps} steps. Give 0 to {steps - 1}.")

    form = form or ScheduleForm()
    decay = form.decay or max(1, steps // 10)

    def multiplier(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / (steps - warmup))
        match name:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * progress))
            case "cosine_with_restarts":
                return 0.5 * (1 + math.cos(math.pi * (form.cycles * progress % 1.0))) if progress < 1 else 0.0
            case "linear":
                return 1 - progress
            case "polynomial":
                return (1 - progress) ** form.power
            case "warmup_stable_decay":
                return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, (step - steps + decay) / decay))))
        return 1.0

    return multiplier


def evaluation_mode(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights to evaluate, sample or export in place. Only schedule-free has others than it trains.

    The trained weights wait in the optimizer's state (one copy of them), so that neither looking nor saving
    while looking changes the training by a bit: the package's own way back, an interpolation, rounds.
    """
    if not _schedule_free(optimizer) or not optimizer.param_groups[0]["train_mode"]:
        return
    weights = _stepped(optimizer)
    copies = [weight.detach().clone() for weight in weights]  # all or none, should memory run out
    for weight, copy in zip(weights, copies, strict=True):
        optimizer.state[weight]["trained"] = copy
    _modes(optimizer).eval()


@torch.no_grad()
def training_mode(optimizer: torch.optim.Optimizer) -> None:
    """Put the weights to train back in place, to the bit. Nothing to do for all but schedule-free."""
    if not _schedule_free(optimizer) or optimizer.param_groups[0]["train_mode"]:
        return
    _modes(optimizer).train()
    for weight in _stepped(optimizer):
        if "trained" in optimizer.state[weight]:
            weight.copy_(optimizer.state[weight].pop("trained"))


def _schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    return "train_mode" in optimizer.param_groups[0]


def _stepped(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [weight for weight in weights if "z" in optimizer.state.get(weight, {})]


def _modes(optimizer: Any) -> Any:
    return optimizer
