"""The trainer: from a recipe and a plan to what is exported, resumable. ``limner.runs`` has the planner."""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import torch

from limner.assembly.assemble import META, Assembled, assemble
from limner.assembly.resolve import Resolved, before_images, device_of, resolve
from limner.assembly.trainable import require_layers
from limner.early_stopping import final_step, stopped_early
from limner.errors import DoesNotFit, Stopped
from limner.events import Done, Saved
from limner.models.sampling import overrides_of, sampler
from limner.nn import distributed
from limner.nn.layers import quantization
from limner.nn.loop import Average, Step, fit
from limner.nn.memory.plan import PreviousPrecision
from limner.recipe.schema import Recipe
from limner.reporter import Reporter, counted
from limner.run_folder import RunDir
from limner.training import checkpoint
from limner.training.cache import BaseImages, Store, fill_cache_with_fallback, record
from limner.training.checkpoint import LoadedCheckpoint, StartingLora, StartingLoraReader
from limner.training.export import ends_in
from limner.training.interrupt import Interrupt
from limner.training.metrics import Track, evaluate, judge, require_trackers, row_of, step_done, tracked
from limner.training.model import TrainableModel, plain, rate
from limner.training.monitor import device_lock, figures, overflow_lines
from limner.training.oom_fallback import MAX_FALLS, OomFallback, Planner, oom_fallback_of, with_smaller_plans
from limner.training.samples import prompts_of, sample
from limner.training.state import TrainState, newest, optimizer_for


def running(
    recipe: Recipe,
    run: RunDir,
    reporter: Reporter,
    stop: Interrupt,
    planner: Planner,
    base_images: BaseImages,
    starting_lora: StartingLoraReader,
) -> Generator[None, None, Done]:
    """Train as the recipe says: yields after each step, and after each stage before the first.

    It goes on from the newest checkpoint if the run folder has one. What happened until it yields, the
    reporter has been told. Closing the generator saves and ends the run; where there are several processes,
    all of them close it after the same step.

    Args:
        recipe: What to train.
        run: The run folder, which no other process trains in.
        reporter: Is told what happens.
        stop: Says between two steps whether to stop, and what else other programs ask for.
        planner: Says how to compute.
        base_images: Generates what the base is to make before it is trained.
        starting_lora: Reads the LoRA that training starts from, where it starts from one.

    Raises:
        Stopped: ``stop`` says so; what is finished is saved.
        LimnerError: See the messages of ``limner.errors``.
    """
    with ExitStack() as stack:
        start = time.monotonic()
        resolved = _resolved(recipe, run, reporter, base_images)
        last_checkpoint, initial = _beginning(resolved, run, reporter, starting_lora, stack)
        resolved = base_images.with_prior(resolved, run, reporter)
        fallback = _planned(recipe, run, last_checkpoint, reporter, planner)
        yield
        start_step = last_checkpoint.step if last_checkpoint else 0
        early_end = distributed.from_first(stopped_early(run, recipe.train.patience, start_step))
        pending_recipe = recipe if recipe.train.steps > start_step and not early_end else None
        # before hours of work, as one that cannot start is an error
        track = stack.enter_context(tracked(pending_recipe, run, reporter, start_step))
        store, _ = fill_cache_with_fallback(resolved, fallback, reporter)
        stack.callback(store.cache.close)
        yield
        resolved = resolved.planned(fallback.plan)
        state = _train_state(resolved, run, store, fallback, reporter)
        stack.enter_context(distributed.passing_together())
        if initial:
            initial.begin(state, reporter)
        if last_checkpoint:
            state.restore(last_checkpoint)
        record(resolved, run, store)
        state.require_room()
        _tidy(state, last_checkpoint, reporter)
        for line in state.first_lines(start_step, early_end):
            reporter.line(line)
        _begin(state, start_step, reporter, stop)
        yield
        step = (yield from _loop(state, start_step, reporter, stop, track)) if pending_recipe else start_step
        _finish(state, step, reporter, stop)
        return _done(state, step, time.monotonic() - start, reporter)


def _resolved(recipe: Recipe, run: RunDir, reporter: Reporter, base_images: BaseImages) -> Resolved:
    """What is trained. What device or base cannot do is said before a base is fetched, or makes images."""
    if recipe.limits.matmul_precision == "8bit":
        quantization.require("int8", device_of(recipe.limits.device))
    if configs_alone := before_images(recipe):
        _require_possible(configs_alone)
    return resolve(base_images.taught(recipe, run, reporter), tell=reporter.line)


def _beginning(
    resolved: Resolved, run: RunDir, reporter: Reporter, starting_lora: StartingLoraReader, stack: ExitStack
) -> tuple[LoadedCheckpoint | None, StartingLora | None]:
    """What to go on from, or to start from; and the device is taken. What cannot work is said here."""
    last_checkpoint = newest(resolved, run, reporter)
    meta = _require_possible(resolved)
    if distributed.rank() == 0:
        stack.enter_context(device_lock(resolved.device, resolved.recipe.limits, run, reporter))
    initial = None if last_checkpoint else starting_lora(resolved, meta, reporter)
    return last_checkpoint, initial


def _require_possible(resolved: Resolved) -> Assembled:
    """Find out before anything is computed what could only fail after it.

    Returns:
        The models without weights, with what is trained attached.

    Raises:
        BadRecipe: A target matches nothing; a tool cannot hold what is trained; a sampler cannot show it; or
            the package of an optimizer or a tracker is missing.
    """
    recipe = resolved.recipe
    if recipe.track.with_:
        require_trackers(list(recipe.track.with_))
    sampler(resolved.source, overrides_of(resolved.objective))
    meta = assemble(resolved.spec, plain(resolved), META)
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1, device=resolved.device))], "lr": rate(resolved, name)}
        for name in resolved.first_layers
    ]
    ends_in(resolved).require_possible(resolved, meta)
    if resolved.samples_elsewhere:
        require_layers(replace(resolved.spec, source=resolved.sample_base.source), meta)
    optimizer_for(resolved, groups, "fp32")
    return meta


def _done(state: TrainState, step: int, seconds: float, reporter: Reporter) -> Done:
    run, recipe = state.run, state.resolved.recipe
    rows, final = run.metrics(), final_step(run, recipe.train.patience, step)
    losses = [row["loss"] for row in rows if "loss" in row][-20:]
    val_losses = [row["held_out"] for row in rows if "held_out" in row and row["step"] <= final]
    end = Done(
        path=run.path,
        **ends_in(state.resolved).paths(run),
        report=run.report_path,
        steps=step,
        seconds=seconds,
        loss=sum(losses) / len(losses) if losses else math.nan,
        validation_loss=val_losses[-1] if val_losses else None,
    )
    reporter.event(end)
    return end


def _planned(
    recipe: Recipe,
    run: RunDir,
    last_checkpoint: LoadedCheckpoint | None,
    reporter: Reporter,
    planner: Planner,
) -> OomFallback:
    """The plan to train by. How weights and moments are stored stays what it was when the run began.

    Raises:
        DoesNotFit: There is none.
    """
    facts = last_checkpoint.facts if last_checkpoint else {}
    way = None
    if "weights" in facts:
        previous = facts["weights"], facts.get("moments", "fp32"), facts.get("products", "full")
        way = PreviousPrecision(*previous, code_modulations=facts.get("code_modulations", False))
    fallback = oom_fallback_of(recipe, reporter, planner, way)
    if distributed.rank() == 0:
        run.write_plan(fallback.run_plan.record)
    reporter.event(fallback.event())
    return fallback


def _train_state(
    resolved: Resolved, run: RunDir, store: Store, fallback: OomFallback, reporter: Reporter
) -> TrainState:
    """The base with what is trained of it, by smaller plans if need be, and an optimizer for that."""
    model = with_smaller_plans(
        "the base is read",
        lambda: TrainableModel(resolved, store, fallback.plan),
        fallback.down,
        fallback,
        reporter,
    )
    train_config = resolved.recipe.train
    torch_optimizer = optimizer_for(resolved, model.groups(), fallback.plan.optimizer_state)
    model.listen(torch_optimizer)
    average = None
    if train_config.ema:
        average = Average(model.parameters, train_config.ema, in_place=model.parts is not None)
    model.dropping(enabled=True)
    scaler = torch.amp.GradScaler(resolved.device.type, enabled=resolved.dtype == torch.float16)
    return TrainState(resolved, run, model, torch_optimizer, scaler, average, fallback, fallback.watch())


def _tidy(state: TrainState, last_checkpoint: LoadedCheckpoint | None, reporter: Reporter) -> None:
    """Forget what came after the checkpoint that is gone on from, and what a kill kept from being deleted."""
    if distributed.rank() != 0:
        return
    run, step = state.run, last_checkpoint.step if last_checkpoint else 0
    if line_count := run.truncate(step or -1):
        reporter.line(f"metrics.jsonl: removed {line_count} damaged or half-written lines.")
    run.drop_step_loras(step)
    if last_checkpoint:
        checkpoint.retain(run, state.resolved.recipe.train.keep, saved=last_checkpoint.path)
    state.fallback.log_early(run, step)


def _begin(state: TrainState, start_step: int, reporter: Reporter, stop: Interrupt) -> None:
    """What is due before the next step: measure and sample the base, or what a kill cut short."""
    run, recipe = state.run, state.resolved.recipe
    if start_step not in (0, *(step for step, _ in run.step_loras())):
        state.export_step(start_step)
    if start_step == 0:
        row = {"step": 0, **evaluate(state, 0, reporter), "time": round(time.time(), 3)}
        if distributed.rank() == 0:
            run.log(row)
    sample_count = 0
    if distributed.rank() == 0 and (start_step == 0 or recipe.sample.every >= 0):
        sample_count = run.write_prompts(prompts_of(state.resolved))
    if sample_count:
        reporter.line(
            f"The prompts of the samples have changed: {counted(sample_count, 'picture')} of earlier "
            f"ones went to {run.earlier_path}."
        )
    if _sampling(recipe, start_step):
        _sample_missing(state, start_step, reporter, stop)


def _sample_missing(state: TrainState, step: int, reporter: Reporter, stop: Interrupt) -> None:
    """Sample, unless the pictures of a step are there."""
    lacks = len(state.run.samples().get(step, {})) < len(prompts_of(state.resolved))
    # the process that samples says so: others may look too late
    if distributed.any_rank(lacks and distributed.rank() == 0):
        _sample(state, step, reporter, stop)


def _sampling(recipe: Recipe, step: int) -> bool:
    interval = recipe.sample.every
    ends = step in (0, recipe.train.steps)
    return interval >= 0 and (ends or (interval > 0 and step % interval == 0))


def _loop(
    state: TrainState, start_step: int, reporter: Reporter, stop: Interrupt, track: Track
) -> Generator[None, None, int]:
    """The loop: steps come out of ``fit``; what happens between two of them happens here.

    Returns:
        The step that it ended with.
    """
    run, recipe = state.run, state.resolved.recipe
    clock = time.monotonic()
    with reporter.progress("Training", recipe.train.steps, start_step) as bar, stop.patient():
        for step in _steps(state, start_step, reporter):
            now = time.monotonic()
            row = row_of(step, now - clock, state)
            for line in (*state.watch.step(row["seconds"], row["bytes"]), *overflow_lines(row)):
                reporter.line(line)
            reporter.event(step_done(row, recipe.train.steps))
            bar.advance(note=figures(row, state.resolved.device.type))
            ends = _between(state, step.number, row, reporter, stop)
            track(row)
            _answer(state, step, reporter, stop)
            try:
                yield
            except GeneratorExit:  # who read the events has left the loop
                _save_once(state, step, reporter)
                raise
            if distributed.any_rank(stop.asked):
                _save_once(state, step, reporter)
                raise Stopped(
                    f"Stopped at step {step.number} of {recipe.train.steps}; saved. "
                    f"Go on with: limner train {run.path}"
                )
            if ends:
                return step.number
            clock = time.monotonic()
    return recipe.train.steps


def _answer(state: TrainState, step: Step, reporter: Reporter, stop: Interrupt) -> None:
    """Do what other programs have asked for since the step before."""
    actions = {
        "save": lambda: _save_once(state, step, reporter),
        "export": lambda: state.export_step(step.number),
        "sample": lambda: _sample(state, step.number, reporter, stop),
    }
    pending = stop.requests.pending() if stop.requests else []
    for kind, act in actions.items():
        if distributed.any_rank(kind in pending):
            act()
            if stop.requests:
                stop.requests.answer(kind)
            reporter.line(f"As asked: {kind}, at step {step.number}.")


def _save_once(state: TrainState, step: Step, reporter: Reporter) -> None:
    is_saved = state.run.checkpoint_path(step.number).exists()
    if distributed.from_first(not is_saved):  # others may not see the run folder
        _save(state, step.number, {"loss": step.loss}, reporter)


def _save(state: TrainState, step: int, facts: dict[str, Any], reporter: Reporter) -> None:
    state.save(step, facts)
    lora = state.export_step(step)
    reporter.event(Saved(step=step, path=state.run.checkpoint_path(step), lora=lora))


def _steps(state: TrainState, step_count: int, reporter: Reporter) -> Iterator[Step]:
    """Every step to the last; one that did not fit is taken again, by a smaller plan."""
    last = state.resolved.recipe.train.steps
    while step_count < last:
        state.model.paces = distributed.gather(state.fallback.pace)
        try:
            for step in fit(state.loop_settings(), state.model.losses, start=step_count, steps=last):
                step_count = step.number
                yield step
            continue
        except torch.OutOfMemoryError as error:
            short = str(error)
        state.step_down(step_count, short, reporter)


def _between(state: TrainState, step: int, row: dict[str, Any], reporter: Reporter, stop: Interrupt) -> bool:
    """Log a step; evaluate, save and sample when they are due. Whether the run ends with it."""
    recipe, run = state.resolved.recipe, state.run
    last = step == recipe.train.steps
    saving = last or step % recipe.train.save_every == 0
    interval = recipe.train.validation_every
    if last or (step % interval == 0 if interval else saving):
        row |= evaluate(state, step, reporter)
    if distributed.rank() == 0:
        run.log(row)
    is_best, ends = judge(state, row, reporter)
    if saving or is_best or ends:
        _save(state, step, {"loss": row["loss"], "held_out": row.get("held_out")}, reporter)
    if _sampling(recipe, step) and not distributed.any_rank(stop.asked):  # the next start makes up for it
        _sample(state, step, reporter, stop)
    return ends or last


def _sample(state: TrainState, step: int, reporter: Reporter, stop: Interrupt) -> None:
    """Sample; by a smaller plan if need be, but the last one is left to the training."""

    def sample_prompts() -> None:
        patient = state.fallback.falls < MAX_FALLS - 1
        sample(state.model, state.run, step, reporter, stop.breakable, patient=patient)

    try:
        state.room_for(sample_prompts, step, reporter)
    except DoesNotFit as error:
        if state.model.sharding:
            raise
        reporter.line(f"No samples at step {step}; training goes on. {error}")


def _finish(state: TrainState, step: int, reporter: Reporter, stop: Interrupt) -> None:
    """Export after ``step`` steps, unless the files are there; those of the best, where there is patience."""
    run, recipe = state.run, state.resolved.recipe
    output = ends_in(state.resolved)
    final = distributed.from_first(final_step(run, recipe.train.patience, step))
    if distributed.any_rank(distributed.rank() == 0 and not output.complete(run, recipe, final)):
        if final != step:
            path = run.checkpoint_path(final)
            state.restore(checkpoint.loaded(path, final))
            reporter.line(f"The best evaluation is that of step {final}: it is what is exported.")
            if recipe.sample.every >= 0:
                _sample_missing(state, final, reporter, stop)
        with state.final_weights() if distributed.rank() == 0 or state.model.parts else nullcontext():
            if distributed.rank() == 0:
                output.write(state.model, run, reporter, final)
            elif state.model.parts:
                state.model.state()  # the part of this process, of what the first one writes
    distributed.barrier()
