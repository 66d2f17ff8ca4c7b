"""The verb ``train``: the whole line from cached values to an exported LoRA, resumable at every step."""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from limner.assembly.assemble import META, assemble
from limner.assembly.resolve import Resolved, device_of, resolve
from limner.errors import Diverged, DoesNotFit, Stopped
from limner.events import Done, Saved, StepDone, Validated
from limner.models.scheduler import sampler, wished
from limner.nn import distributed
from limner.nn.layers import w8a8
from limner.nn.loop import Average, Fit, Step, fit
from limner.nn.memory.plan import OptimizerState
from limner.nn.optim import optimizer, schedule
from limner.planning.planner import Begun, keep
from limner.recipe.optimizers import optimizer_of
from limner.recipe.schema import Recipe
from limner.report.report import write_report
from limner.reporter import Reporter, counted
from limner.run_folder import RunDir
from limner.status import StatusFile
from limner.training import checkpoint
from limner.training.cache import prompts_of, record, stocked
from limner.training.class_images import prior
from limner.training.interrupt import Interrupt
from limner.training.model import Trainee, plain, rate
from limner.training.monitor import peak
from limner.training.oom_fallback import MOST, Ladder, ladder_of
from limner.training.oom_retry import begun
from limner.training.outputs import output_of
from limner.training.samples import sample
from limner.training.state import Progress, newest
from limner.training.track import Track, check, tracked


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
    """The same as a generator, which yields after each step, and after each stage before the first.

    What happened until then the reporter has been told. Closing the generator saves and ends the run; where
    there are several processes, all of them close it after the same step.

    Args:
        recipe: What to train.
        out: The run folder.
        reporter: Is told what happens.
        stop: Says between two steps whether to stop.
    """
    distributed.start()
    run = RunDir(out)
    with run.lock() if distributed.rank() == 0 else nullcontext(), ExitStack() as stack:
        if distributed.rank() == 0:
            reporter = reporter.also(stack.enter_context(StatusFile(run)).hear)
        start = time.monotonic()
        if recipe.limits.matmul_precision == "8bit":  # said before a base is fetched
            w8a8.require("int8", device_of(recipe.limits.device))
        setting = resolve(recipe, tell=reporter.line)
        found = newest(setting, run, reporter)
        _require_possible(setting)
        if folder := prior(setting.base, run, reporter):
            setting = setting.with_class_images(folder)
        ladder = _planned(recipe, run, found, reporter)
        yield
        done = found.step if found else 0
        more = recipe if recipe.train.steps > done else None
        # before hours of work, as one that cannot start is an error
        track = stack.enter_context(tracked(more, run, reporter, done))
        store, _ = stocked(setting, ladder, reporter)
        stack.callback(store.cache.close)
        yield
        setting = setting.planned(ladder.plan)
        trainee = begun(
            "the base is read", lambda: Trainee(setting, store, ladder.plan), ladder.down, ladder, reporter
        )
        progress = _progress(setting, run, trainee, ladder)
        if found:
            progress.restore(found)
            found.parts.clear()  # of a full fine-tune, thrice the size of the model
        record(setting, run, store)
        progress.require_room()
        if distributed.rank() == 0:
            _tidy(run, found, recipe.train.keep, reporter)
        if ladder.early and distributed.rank() == 0:
            keep(ladder.planned, run)
            for row in ladder.early:
                run.log({"step": done, **row})
        _announce(setting, progress.trainee, done, reporter)
        _begin(progress, done, reporter, stop)
        yield
        if more:
            yield from _loop(progress, done, reporter, stop, track)
        _finish(progress, reporter)
        end = _done(recipe, run, time.monotonic() - start)
        reporter.event(end)
        return end


def _require_possible(setting: Resolved) -> None:
    """Find out before anything is computed what could only fail after it.

    Raises:
        BadRecipe: A target matches nothing; a tool cannot hold what is trained; a sampler cannot show it; or
            the package of an optimizer or a tracker is missing.
    """
    wish = setting.recipe
    if wish.track.with_:
        check(list(wish.track.with_))
    sampler(setting.source, wished(setting.objective))
    meta = assemble(setting.spec, plain(setting), META)
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1, device=setting.device))], "lr": rate(setting, name)}
        for name in setting.first_layers
    ]
    output_of(setting.recipe).require_possible(setting, meta)
    _optimizer(setting, groups, "fp32")


def _optimizer(
    setting: Resolved, groups: list[dict[str, Any]], moments: OptimizerState
) -> torch.optim.Optimizer:
    wish = setting.recipe.train
    in_8_bits = optimizer_of(wish.optimizer).in_8_bits if moments == "8bit" else ""
    return optimizer(
        in_8_bits or wish.optimizer,
        groups,
        weight_decay=wish.weight_decay,
        betas=wish.betas,
        schedule=wish.schedule,
        warmup=wish.warmup,
    )


def _done(recipe: Recipe, run: RunDir, seconds: float) -> Done:
    rows = run.metrics()
    losses = [row["loss"] for row in rows if "loss" in row][-20:]
    measured = [row["held_out"] for row in rows if "held_out" in row]
    return Done(
        path=run.path,
        **output_of(recipe).paths(run),
        report=write_report(run) if distributed.rank() == 0 else run.report_path,
        steps=recipe.train.steps,
        seconds=seconds,
        loss=sum(losses) / len(losses) if losses else math.nan,
        validation_loss=measured[-1] if measured else None,
    )


def _planned(recipe: Recipe, run: RunDir, found: checkpoint.Checkpoint | None, reporter: Reporter) -> Ladder:
    """The plan to train by. How weights and moments are stored stays what it was when the run began.

    Raises:
        DoesNotFit: There is none.
    """
    facts = found.facts if found else {}
    way = None
    if "weights" in facts:
        way = Begun(facts["weights"], facts.get("moments", "fp32"), facts.get("products", "full"))
    ladder = ladder_of(recipe, reporter, way)
    if distributed.rank() == 0:
        keep(ladder.planned, run)
    reporter.event(ladder.event())
    return ladder


def _progress(setting: Resolved, run: RunDir, trainee: Trainee, ladder: Ladder) -> Progress:
    wish = setting.recipe.train
    chosen = _optimizer(setting, trainee.groups(), ladder.plan.optimizer_state)
    chosen.register_step_post_hook(trainee.publish)
    average = Average(trainee.parameters, wish.ema) if wish.ema else None
    trainee.dropping(on=True)
    return Progress(setting, run, trainee, chosen, average, ladder, ladder.watch())


def _tidy(run: RunDir, found: checkpoint.Checkpoint | None, keep: int, reporter: Reporter) -> None:
    """Forget what came after the checkpoint that is gone on from, and what a kill kept from being deleted."""
    if lost := run.truncate(found.step if found and found.step else -1):
        reporter.line(f"metrics.jsonl: removed {lost} damaged or half-written lines.")
    if found:
        checkpoint.retain(run, keep, saved=found.path)


def _announce(setting: Resolved, trainee: Trainee, done: int, reporter: Reporter) -> None:
    wish = setting.recipe.train
    images = len({view.example.sha256 for view in setting.own})
    count = sum(p.numel() for p in trainee.parameters)
    kind = "held out" if setting.truly_held_out else "a fixed subset of the training images"
    reporter.line(
        f"{images} images, {len(setting.own)} views; {count:,} trained numbers on {setting.device.type} in "
        f"{str(setting.dtype).removeprefix('torch.')}; {wish.steps} steps of {wish.batch} = each image "
        f"{wish.steps * wish.batch / images:.1f} times; held-out loss on "
        f"{len(setting.held_out)} images ({kind})."
    )
    if setting.class_views:
        usual = len({view.example.sha256 for view in setting.views[-setting.class_views :]})
        reporter.line(
            f"Prior: {usual} pictures keep what the base knows, {setting.recipe.prior.batch} per step, "
            f"weight {setting.recipe.prior.weight:g}."
        )
    if done:
        reporter.line(f"Going on from step {done}." if done < wish.steps else f"All {done} steps are done.")


def _begin(progress: Progress, done: int, reporter: Reporter, stop: Interrupt) -> None:
    """What is due before the next step: measure and paint the base, or the samples that a kill cut short."""
    run, wish = progress.run, progress.setting.recipe
    if done == 0:
        row = {"step": 0, "held_out": _held_out(progress, 0, reporter), "time": round(time.time(), 3)}
        if distributed.rank() == 0:
            run.log(row)
    moved = 0
    if distributed.rank() == 0 and (done == 0 or wish.sample.every >= 0):
        moved = run.write_prompts(prompts_of(progress.setting))
    if moved:
        reporter.line(
            f"The prompts of the samples have changed: {counted(moved, 'picture')} of earlier ones went to "
            f"{run.earlier_path}."
        )
    if _sampling(wish, done):
        lacks = len(run.samples().get(done, {})) < len(prompts_of(progress.setting))
        if distributed.any_rank(
            lacks and distributed.rank() == 0
        ):  # who paints says so: others may look too late
            _sample(progress, done, reporter, stop)


def _sampling(wish: Recipe, step: int) -> bool:
    every = wish.sample.every
    ends = step in (0, wish.train.steps)
    return every >= 0 and (ends or (every > 0 and step % every == 0))


def _loop(progress: Progress, done: int, reporter: Reporter, stop: Interrupt, track: Track) -> Iterator[None]:
    """The loop: steps come out of ``fit``; what happens between two of them happens here."""
    run, wish = progress.run, progress.setting.recipe
    on_host, gather = distributed.sum_on_host, distributed.sum_gradients
    pace = Fit(
        parameters=progress.trainee.parameters,
        optimizer=progress.optimizer,
        rate=schedule(wish.train.schedule, wish.train.warmup, wish.train.steps),
        clip=wish.train.clip,
        average=progress.average,
        share=(on_host if progress.trainee.offload else gather) if distributed.world() > 1 else None,
        anyone=distributed.any_rank,
        room=progress.require_memory,
    )
    clock = time.monotonic()
    with reporter.progress("Training", wish.train.steps - done) as bar, stop.patient():
        for step in _steps(progress, pace, done, reporter):
            now = time.monotonic()
            row = _row(step, now - clock, progress)
            for line in progress.watch.step(row["seconds"], row["bytes"]):
                reporter.line(line)
            reporter.event(_step_done(row, wish.train.steps))
            bar.advance(note=f"loss {step.loss:.4f}")
            _between(progress, step.number, row, reporter, stop)
            track(row)
            try:
                yield
            except GeneratorExit:  # who read the events has left the loop
                _save_once(progress, step, reporter)
                raise
            if distributed.any_rank(stop.asked):
                _save_once(progress, step, reporter)
                raise Stopped(
                    f"Stopped at step {step.number} of {wish.train.steps}; saved. "
                    f"Go on with: limner train {run.path}"
                )
            clock = time.monotonic()


def _save_once(progress: Progress, step: Step, reporter: Reporter) -> None:
    if not progress.run.checkpoint_path(step.number).exists():
        _save(progress, step.number, {"loss": step.loss}, reporter)


def _save(progress: Progress, step: int, facts: dict[str, Any], reporter: Reporter) -> None:
    progress.save(step, facts)
    reporter.event(Saved(step=step, path=progress.run.checkpoint_path(step)))


def _step_done(row: dict[str, Any], steps: int) -> StepDone:
    names = ("step", "loss", "norm", "learning_rate", "seconds", "bytes")
    return StepDone(steps=steps, **{name: row[name] for name in names})


def _steps(progress: Progress, pace: Fit, done: int, reporter: Reporter) -> Iterator[Step]:
    """Every step to the last; one that did not fit is taken again, by a smaller plan."""
    last = progress.setting.recipe.train.steps
    while done < last:
        try:
            for step in fit(pace, progress.trainee.losses, start=done, steps=last):
                done = step.number
                yield step
            continue
        except torch.OutOfMemoryError as error:
            short = str(error)
        progress.step_down(done, short, reporter)


def _row(step: Step, seconds: float, progress: Progress) -> dict[str, Any]:
    return {
        "step": step.number,
        "loss": step.loss,
        "norm": step.norm,
        "learning_rate": progress.setting.recipe.train.learning_rate * step.rate,
        "seconds": round(seconds, 4),
        "bytes": peak(progress.setting.device),
        "time": round(time.time(), 3),
    }


def _between(progress: Progress, step: int, row: dict[str, Any], reporter: Reporter, stop: Interrupt) -> None:
    """Log a step; evaluate, save and sample when they are due."""
    wish, run = progress.setting.recipe, progress.run
    last = step == wish.train.steps
    saving = last or step % wish.train.save_every == 0
    every = wish.train.validation_every
    if last or (step % every == 0 if every else saving):
        row["held_out"] = _held_out(progress, step, reporter)
    if distributed.rank() == 0:
        run.log(row)
    if saving:
        _save(progress, step, {"loss": row["loss"], "held_out": row.get("held_out")}, reporter)
    if _sampling(wish, step) and not distributed.any_rank(stop.asked):  # the next start makes up for it
        _sample(progress, step, reporter, stop)


def _sample(progress: Progress, step: int, reporter: Reporter, stop: Interrupt) -> None:
    """Paint; by a smaller plan if need be, but the last rung is left to the training."""

    def paint() -> None:
        patient = progress.ladder.falls < MOST - 1
        sample(progress.trainee, progress.run, step, reporter, stop.breakable, patient=patient)

    try:
        progress.room_for(paint, step, reporter)
    except DoesNotFit as error:
        reporter.line(f"No samples at step {step}; training goes on. {error}")


def _held_out(progress: Progress, step: int, reporter: Reporter) -> float:
    """The held-out loss after ``step`` steps.

    Raises:
        Diverged: It is not finite, so that this state must not be saved.
    """
    loss = progress.room_for(progress.trainee.held_out_loss, step, reporter)
    if math.isfinite(loss):
        reporter.event(Validated(step=step, loss=loss))
        return loss
    source, denoiser = progress.setting.source, progress.setting.family.denoiser
    if step:
        why = "Halve train.learning_rate, and run again: it goes on from the checkpoint before."
    else:
        about = f"The {denoiser} of {source.name} is damaged, or too large for limits.compute_dtype."
        why = f"{about} {source.again}"
    raise Diverged(f"After step {step} the held-out loss is {loss}. {why}")


def _finish(progress: Progress, reporter: Reporter) -> None:
    """Export, unless the files of just these steps are there."""
    run, output = progress.run, output_of(progress.setting.recipe)
    if distributed.rank() == 0 and not output.complete(run, progress.setting.recipe):
        with progress.final_weights():
            output.write(progress.trainee, run, reporter)
    distributed.barrier()
