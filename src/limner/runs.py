"""The verbs ``train`` and ``cache``: the planner, the predictor, the trainer and its pages, put together."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

from limner.errors import LimnerError, first_line
from limner.events import CacheFilled, Done, Event, Sampled, Saved
from limner.generation import class_images
from limner.models.family import Family
from limner.models.source import Source
from limner.nn import distributed
from limner.planning.run_plan import plan_run
from limner.recipe.schema import Recipe
from limner.report.report import write_report
from limner.report.sheet import write_sheet
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.status import Requests, StatusFile, TrainLog
from limner.training import cache as training_cache
from limner.training import train as trainer
from limner.training.initial import PredictedLora, initial_lora
from limner.training.interrupt import Interrupt
from limner.training.monitor import held_on


def train(recipe: Recipe, out: Path, reporter: Reporter) -> Done:
    """Train as the recipe says, going on from the newest checkpoint if the run folder has one.

    Raises:
        Stopped: SIGINT or SIGTERM came, or the reporter's ``stop``; what is finished is saved.
        LimnerError: See the messages of ``limner.errors``.
    """
    with Interrupt(reporter.stop) as stop:
        run = running(recipe, out, reporter.until(stop.due), stop)
        while True:
            try:
                next(run)
            except StopIteration as end:
                return end.value


def running(recipe: Recipe, out: Path, reporter: Reporter, stop: Interrupt) -> Generator[None, None, Done]:
    """The same as a generator that yields after each step. See ``training.train.running``."""
    run = RunDir(out)

    def pages(event: Event) -> None:
        if isinstance(event, Sampled):
            write_sheet(run, run.prompts())
        if distributed.rank() != 0:
            return
        if isinstance(event, Done):
            write_report(run)
        elif isinstance(event, Saved | Sampled):
            try:
                write_report(run)
            except (LimnerError, OSError) as error:
                reporter.line(f"No report at step {event.step} ({first_line(error)}); training goes on.")

    def steps(events: Reporter) -> Generator[None, None, Done]:
        starting_lora = partial(initial_lora, predictor=_predict)
        return trainer.running(recipe, run, events, stop, plan_run, class_images, starting_lora)

    memory = partial(held_on, recipe.limits.device)
    return _open_to_others(run, reporter.also(pages), stop, memory, steps)


def _open_to_others(
    run: RunDir,
    reporter: Reporter,
    stop: Interrupt,
    memory: Callable[[], int | None],
    steps: Callable[[Reporter], Generator[None, None, Done]],
) -> Generator[None, None, Done]:
    """Steps that other programs may follow and ask something of, in a folder where nothing else trains."""
    distributed.start()
    is_first = distributed.rank() == 0
    with run.lock() if is_first else nullcontext(), ExitStack() as stack:
        if is_first:
            stop.listen(stack.enter_context(Requests(run)))
            for listener in (TrainLog(run), StatusFile(run, memory=memory)):
                reporter = reporter.also(stack.enter_context(listener).hear)
        return (yield from steps(reporter))


def _predict(
    paths: Sequence[Path], source: Source, family: Family, predictor: str, reporter: Reporter
) -> PredictedLora:
    from limner.prediction import predict  # few trainings start from one

    return predict(paths, source, family, predictor, reporter)


def cache(recipe: Recipe, out: Path, reporter: Reporter) -> CacheFilled:
    """Fill the cache for a recipe and record in the run folder what the run will read.

    Safe to run alone, again, in several processes that a launcher started, and to kill at any moment.
    """
    return training_cache.cache(recipe, RunDir(out), reporter, plan_run, class_images)
