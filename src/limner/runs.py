"""The verbs ``train`` and ``cache``: the planner, the predictor, the trainer and its pages, put together."""

from collections.abc import Generator, Sequence
from pathlib import Path

from limner.errors import LimnerError, first_line
from limner.events import CacheFilled, Done, Event, Sampled, Saved
from limner.models.family import Family
from limner.models.source import Source
from limner.nn import distributed
from limner.planning.run_plan import plan_run
from limner.recipe.schema import Recipe
from limner.report.report import write_report
from limner.report.sheet import write_sheet
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training import cache as training_cache
from limner.training import train as trainer
from limner.training.initial import PredictedLora
from limner.training.interrupt import Interrupt


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

    return trainer.running(recipe, run, reporter.also(pages), stop, plan_run, _predict)


def _predict(
    paths: Sequence[Path], source: Source, family: Family, predictor: str, reporter: Reporter
) -> PredictedLora:
    from limner.prediction import predict  # few trainings start from one

    return predict(paths, source, family, predictor, reporter)


def cache(recipe: Recipe, out: Path, reporter: Reporter) -> CacheFilled:
    """Fill the cache for a recipe and record in the run folder what the run will read.

    Safe to run alone, again, in several processes that a launcher started, and to kill at any moment.
    """
    return training_cache.cache(recipe, RunDir(out), reporter, plan_run)
