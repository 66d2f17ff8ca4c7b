"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598): which adapters each of its passes has.

The denoiser runs twice at each step, on the prompt and on the negative prompt. Stock pipelines give both
passes the same weights. A LoRA whose style stands in no prompt is then not amplified: it is in both
predictions. With it on the positive branch only, guidance leads from the base towards the LoRA.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limner.models.source import Source

Branch = Literal["positive", "negative"]
Select = Callable[[nn.Module, Branch], None]
"""Gives a model the adapters of a branch."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How the stock pipeline of a family runs guidance."""

    passes: Literal["separate", "in-turn", "negative-first", "positive-first"] = "separate"
    """Two calls of the denoiser, in its cache contexts "cond" and "uncond"; or two without contexts, the
    positive one first; or one call on both batches, one behind the other."""
    off_at: float = 1.0
    """Guidance scale up to which there is no negative pass."""
    distilled: Callable[[Source], bool] = lambda source: False
    """Whether a base has guidance in its weights, so that there is never a negative pass."""


@contextmanager
def by_branch(
    guidance: Guidance, denoiser: nn.Module, text_encoders: Iterable[nn.Module], select: Select
) -> Iterator[None]:
    """While entered, one call of the stock pipeline gives each pass the adapters of its branch.

    Text encoders are selected by their calls: stock pipelines encode the prompt first, then the negative one.
    A pass alone computes what it does within a batch of both, up to rounding. Afterwards all have the
    adapters of the positive branch.

    Args:
        guidance: The family's.
        denoiser: The pipeline's denoiser.
        text_encoders: Those of its text encoders that have adapters.
        select: Called before each pass.
    """
    models = (denoiser, *text_encoders)
    with ExitStack() as stack:
        for encoder in models[1:]:
            stack.enter_context(_replaced(encoder, "forward", _in_turn(encoder, select)))
        if guidance.passes == "in-turn":
            stack.enter_context(_replaced(denoiser, "forward", _in_turn(denoiser, select)))
        elif guidance.passes == "separate":
            stack.enter_context(_replaced(denoiser, "cache_context", _in_context(denoiser, select)))
        else:
            first: Branch = "negative" if guidance.passes == "negative-first" else "positive"
            stack.enter_context(_replaced(denoiser, "forward", _in_halves(denoiser, select, first)))
        try:
            yield
        finally:
            for model in models:
                select(model, "positive")


@contextmanager
def _replaced(model: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """A method of one model, replaced while entered."""
    before = vars(model).get(name)
    setattr(model, name, function)
    try:
        yield
    finally:
        delattr(model, name)
        if before is not None:
            setattr(model, name, before)


def _in_turn(model: nn.Module, select: Select) -> Callable[..., Any]:
    forward, branches = model.forward, cycle(("positive", "negative"))

    def run(*args: Any, **kwargs: Any) -> Any:
        select(model, next(branches))
        return forward(*args, **kwargs)

    return run


def _in_context(denoiser: Any, select: Select) -> Callable[..., Any]:
    context = denoiser.cache_context

    @contextmanager
    def named(name: str, **kwargs: Any) -> Iterator[None]:
        select(denoiser, "negative" if name == "uncond" else "positive")
        with context(name, **kwargs):
            yield

    return named


def _in_halves(denoiser: nn.Module, select: Select, first: Branch) -> Callable[..., Any]:
    forward = denoiser.forward
    order: tuple[Branch, ...] = (first, "positive" if first == "negative" else "negative")

    def run(*args: Any, **kwargs: Any) -> Any:
        count = len(next(iter((*args, *kwargs.values()))))  # the noisy latents come first
        outputs = []
        for part, branch in enumerate(order):
            select(denoiser, branch)
            half_args = [_half(value, count, part) for value in args]
            half_kwargs = {name: _half(value, count, part) for name, value in kwargs.items()}
            outputs.append(forward(*half_args, **half_kwargs)[0])
        is_tensor = isinstance(outputs[0], Tensor)
        return (torch.cat(outputs) if is_tensor else [*outputs[0], *outputs[1]],)

    return run


def _half(value: Any, count: int, part: int) -> Any:
    """The first or second half of what has a batch of ``count``; anything else as it is."""
    half = slice(part * count // 2, (part + 1) * count // 2)
    match value:
        case Mapping():
            return {name: _half(inner, count, part) for name, inner in value.items()}
        case Tensor() if value.dim() and len(value) == count:
            return value[half]
        case list() if len(value) == count:
            return value[half]
    return value
