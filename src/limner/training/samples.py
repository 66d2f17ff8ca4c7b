"""Samples during training: painted by the stock sampler, never able to end the training."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from limner.errors import LimnerError, Stopped, first_line
from limner.events import Sampled
from limner.files import atomic_write
from limner.nn import distributed
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.cache import prompts_of
from limner.training.model import TrainableModel

FAILURES = (LimnerError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, OSError)
"""What may go wrong in a stock sampler, out of memory included; not signals, not the end of the process."""


def sample(  # noqa: PLR0913  what is painted, and what may break it off
    model: TrainableModel,
    run: RunDir,
    step: int,
    reporter: Reporter,
    breakable: Callable[[], AbstractContextManager[None]] = nullcontext,
    *,
    patient: bool = False,
) -> None:
    """Paint the run's prompts with the weights as they stand after ``step`` steps.

    What goes wrong here is said and passed over: training is worth more than a picture. Within ``breakable``
    a signal may break it off.

    Raises:
        OutOfMemoryError: If ``patient``: the caller will try again with less in use.
    """
    if distributed.rank() != 0:
        return
    prompts = prompts_of(model.resolved)
    try:
        with breakable():
            images = model.sample(len(prompts))
            for number, image in enumerate(images):
                atomic_write(run.sample_path(step, number), partial(image.save, format="PNG"))
            reporter.event(Sampled(step=step, paths=tuple(run.samples().get(step, {}).values())))
    except Stopped:
        raise
    except FAILURES as error:
        if patient and isinstance(error, torch.OutOfMemoryError):
            raise
        reporter.line(f"Samples at step {step} failed ({first_line(error)}); training goes on.")
