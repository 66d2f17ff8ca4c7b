"""The verbs ``train`` and ``cache``: the planner, the predictor, the trainer and its pages, put together."""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from limner.assembly.phases import phase, require_pairs_alike
from limner.errors import LimnerError, Stopped, first_line
from limner.events import CacheFilled, Done, Event, Sampled, Saved
from limner.files import write_text
from limner.generation import class_images
from limner.imports import imported
from limner.models.family import Family
from limner.models.source import Source
from limner.nn import distributed
from limner.planning.run_plan import plan_run
from limner.recipe import toml
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
    run, memory = RunDir(out), partial(held_on, recipe.limits.device)
    phases = _of_pairs if recipe.pairs else _phase
    minutes = recipe.limits.timeout
    return _open_to_others(
        run, minutes, reporter, stop, memory, lambda events: phases(recipe, run, events, stop)
    )


def _phase(recipe: Recipe, run: RunDir, reporter: Reporter, stop: Interrupt) -> Generator[None, None, Done]:
    """A training with its pages."""

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

    starting_lora = partial(initial_lora, predictor=_predict)
    return trainer.running(recipe, run, reporter.also(pages), stop, plan_run, class_images, starting_lora)


def _open_to_others(
    run: RunDir,
    minutes: int,
    reporter: Reporter,
    stop: Interrupt,
    memory: Callable[[], int | None],
    steps: Callable[[Reporter], Generator[None, None, Done]],
) -> Generator[None, None, Done]:
    """Steps that other programs may follow and ask something of, in a folder where nothing else trains."""
    distributed.start(minutes)
    is_first = distributed.rank() == 0
    with run.lock() if is_first else nullcontext(), ExitStack() as stack:
        if is_first:
            stop.listen(stack.enter_context(Requests(run)))
            for listener in (TrainLog(run), StatusFile(run, memory=memory)):
                reporter = reporter.also(stack.enter_context(listener).hear)
        return (yield from steps(reporter))


def _of_pairs(
    recipe: Recipe, run: RunDir, reporter: Reporter, stop: Interrupt
) -> Generator[None, None, Done]:
    """Both phases of pairs: the first, a run in the run folder, unless the second has begun; then the second.

    Raises:
        Stopped: As ``train``.
    """
    require_pairs_alike(recipe)
    first = RunDir(run.before_path)
    if distributed.from_first(not run.checkpoints()):
        _note(recipe, run)
        reporter.line(f"Phase 1 of 2: {recipe.train.steps} steps on the images before, in {first.path}.")
        try:
            yield from _phase(phase(recipe, "before"), first, _without_end(reporter), stop)
        except Stopped as error:
            text = str(error).replace(f"limner train {first.path}", f"limner train {run.path}")
            raise Stopped(text) from error
    reporter.line(f"Phase 2 of 2: {recipe.train.steps} steps on the images after, beside {first.lora_path}.")
    return (yield from _phase(phase(recipe, "after", first.lora_path.absolute()), run, reporter, stop))


def _note(recipe: Recipe, run: RunDir) -> None:
    """Write down the recipe with its pairs, so that `limner train RUN` goes on with both phases."""
    if distributed.rank() == 0:
        run.path.mkdir(parents=True, exist_ok=True)
        write_text(run.recipe_path, toml.dump(recipe))


def _without_end(reporter: Reporter) -> Reporter:
    """A reporter that is not told of the end of a phase, as the run goes on."""
    return Reporter(lambda event: None if isinstance(event, Done) else reporter.event(event), reporter.stop)


def _predict(
    paths: Sequence[Path], source: Source, family: Family, predictor: str, reporter: Reporter
) -> PredictedLora:
    references = imported("limner.hyper.vision:ReferenceImages")(
        paths
    )  # few trainings start from a prediction
    return imported("limner.prediction:predict")(references, source, family, predictor, reporter)


def cache(recipe: Recipe, out: Path, reporter: Reporter) -> CacheFilled:
    """Fill the cache for a recipe and record in the run folder what the run will read.

    Safe to run alone, again, in several processes that a launcher started, and to kill at any moment.
    """
    run = RunDir(out)
    if not recipe.pairs:
        return training_cache.cache(recipe, run, reporter, plan_run, class_images)
    require_pairs_alike(recipe)
    first = RunDir(run.before_path)
    before = training_cache.cache(phase(recipe, "before"), first, reporter, plan_run, class_images)
    after = training_cache.cache(phase(recipe, "after"), run, reporter, plan_run, class_images)
    if not run.checkpoints():
        _note(recipe, run)
    sums = {entry.name: getattr(before, entry.name) + getattr(after, entry.name) for entry in fields(after)}
    return replace(after, **sums)
