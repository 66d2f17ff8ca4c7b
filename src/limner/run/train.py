"""The verb ``train``: the whole line from cached values to an exported LoRA, resumable at every step."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limner.errors import BadCheckpoint, BadRecipe, Diverged, Stopped
from limner.families.loading import skeleton
from limner.nn import processes
from limner.nn.fit import Average, Fit, Step, fit
from limner.nn.optim import evaluation_mode, optimizer, schedule, training_mode
from limner.nn.pack import restore
from limner.recipe.schema import Recipe
from limner.run import checkpoint
from limner.run.cache import prompts_of, record, stock
from limner.run.export import export, exported_steps
from limner.run.interrupt import Interrupt
from limner.run.prior import prior
from limner.run.report import write_report
from limner.run.rundir import RunDir
from limner.run.sample import sample
from limner.run.say import Say
from limner.run.setting import Setting, prepare
from limner.run.track import check, tracked
from limner.run.trainee import Trainee, rate, targets

WISHED = ("initial_lr", "weight_decay", "betas")
"""What a recipe may change of an optimizer within a run."""


@dataclass(frozen=True)
class Trained:
    """What a run left, and how it ended."""

    lora: Path
    report: Path
    steps: int
    seconds: float
    loss: float
    held_out: float | None


@dataclass
class Progress:
    """The training state around the loop: everything that a checkpoint holds."""

    setting: Setting
    run: RunDir
    trainee: Trainee
    optimizer: torch.optim.Optimizer
    average: Average | None

    def save(self, step: int, facts: dict[str, Any]) -> None:
        """Write the checkpoint of ``step`` and drop those that the recipe does not keep."""
        if processes.rank() == 0:
            parts = {
                "weights": self.trainee.state(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.shadow if self.average else None,
            }
            path = self.run.checkpoint_path(step)
            checkpoint.save(path, parts, {"step": step, **facts, **shape(self.setting)})
            checkpoint.retain(self.run, self.setting.recipe.train.keep, saved=path)
        processes.barrier()

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Put back the state that :meth:`save` wrote; what the recipe says of the optimizer stays.

        Raises:
            BadCheckpoint: It holds no such state, or that of another run.
        """
        match found.parts:
            case {"weights": dict(weights), "optimizer": dict(moments), "average": list() | None as average}:
                pass
            case _:
                raise BadCheckpoint(f"{found.path} is not the state of a training. {checkpoint.REMEDY}")
        try:
            self.trainee.restore(weights)
            self._restore_optimizer(moments)
            if self.average:  # one that the recipe turns on now begins at these weights
                self.average.start(average or self.trainee.parameters)
        except (BadCheckpoint, BadRecipe) as error:
            raise BadCheckpoint(f"{found.path}: {error}") from error
        if not all(parameter.isfinite().all() for parameter in self.trainee.parameters):
            raise BadCheckpoint(
                f"{found.path} holds weights that are not finite. {checkpoint.REMEDY} Lower "
                "train.learning_rate, too."
            )

    def _restore_optimizer(self, state: dict[str, Any]) -> None:
        groups = self.optimizer.param_groups
        wished = [{key: group[key] for key in WISHED if key in group} for group in groups]
        restore(self.optimizer, state)
        for group, wish in zip(self.optimizer.param_groups, wished, strict=True):
            group.update(wish)

    def require_room(self) -> None:
        """Raise ``DiskFull`` unless the disk holds the checkpoints that the recipe keeps."""
        wish, weights = self.setting.recipe.train, self.trainee.state()
        moments = 4 if wish.optimizer == "prodigy" else 2  # tensors per weight, at most
        parts = {
            "weights": weights,
            "optimizer": [weights] * moments,
            "average": bool(self.average) * [weights],
        }
        if processes.rank() == 0:
            checkpoint.require_room(self.run, parts, wish.keep)

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        """The weights that a user gets: averaged ones, where the recipe or the optimizer averages."""
        evaluation_mode(self.optimizer)
        if self.average:
            self.average.swap()
        try:
            yield
        finally:
            if self.average:
                self.average.swap()
            training_mode(self.optimizer)


def shape(setting: Setting) -> dict[str, Any]:
    """What may not change within a run. No paths: a run folder may move to another machine."""
    wish = setting.recipe
    return {
        "base": setting.source.fingerprint(setting.family.denoiser, ""),
        "lora": wish.lora.model_dump(mode="json"),
        "optimizer": wish.train.optimizer,
    }


def newest(setting: Setting, run: RunDir, say: Say) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from, before anything is computed; None at the start of a run.

    Raises:
        BadCheckpoint: It belongs to another base, another LoRA, or more steps than are wished for; or there
            are checkpoints, and none that can be read: to start again is not for us to decide.
    """
    found, refused = checkpoint.newest_whole(run)
    processes.barrier()
    if refused and found is None:
        raise BadCheckpoint(
            f"None of the {len(refused)} checkpoints in {run.checkpoints_path} can be read. The newest: "
            f"{refused[0].reason.removesuffix(checkpoint.REMEDY).strip()} Put back a copy, or start again: "
            "delete that folder, or choose another with --out."
        )
    for each in refused if processes.rank() == 0 else ():
        say.line(f"Checkpoint passed over: {each.reason}")
        run.set_aside(each.path)
    if found is None:
        return None
    mine = shape(setting)
    if changed := [key for key in mine if found.facts.get(key) != mine[key]]:
        raise BadCheckpoint(
            f"{found.path} was trained with another {' and '.join(changed)}. "
            "A run cannot change these: give the new recipe another folder with --out."
        )
    if found.step > setting.recipe.train.steps:
        raise BadCheckpoint(
            f"{run.path} has {found.step} steps already, and train.steps is {setting.recipe.train.steps}. "
            f"Set train.steps to at least {found.step}, or choose another folder with --out."
        )
    return found


def train(recipe: Recipe, out: Path, say: Say) -> Trained:
    """Train a LoRA as the recipe says, going on from the newest checkpoint if the run folder has one.

    Raises:
        Stopped: SIGINT or SIGTERM came; what is finished is saved.
        LimnerError: See the messages of ``limner.errors``.
    """
    processes.start()
    run = RunDir(out)
    with run.lock() if processes.rank() == 0 else nullcontext(), Interrupt() as stop:
        start = time.monotonic()
        setting = prepare(recipe, tell=say.line)
        found = newest(setting, run, say)
        _require_possible(setting)
        if usual := prior(recipe, run, say):
            setting = prepare(recipe, usual)
        store, _ = stock(setting, say)
        progress = _progress(setting, run, Trainee(setting, store))
        done = found.step if found else 0
        if found:
            progress.restore(found)
        record(setting, run, store)
        progress.require_room()
        if processes.rank() == 0 and (lost := run.truncate(done if done else -1)):
            say.line(f"metrics.jsonl: removed {lost} damaged or half-written lines.")
        _announce(setting, progress.trainee, done, say)
        _begin(progress, done, say)
        if recipe.train.steps > done:
            _loop(progress, done, say, stop)
        _finish(progress, say)
        return _trained(recipe, run, time.monotonic() - start)


def _require_possible(setting: Setting) -> None:
    """Find out before anything is computed what could only fail after it.

    Raises:
        BadRecipe: A target matches nothing, or the package of an optimizer or a tracker is missing.
    """
    wish = setting.recipe
    if wish.track.with_:
        check(list(wish.track.with_))
    groups = []
    for name in setting.trained:
        targets(setting, name, skeleton(setting.family, setting.source, name, dtype=setting.dtype))
        probe = torch.nn.Parameter(torch.zeros(1, device=setting.device))
        groups.append({"params": [probe], "lr": rate(setting, name)})
    _optimizer(setting, groups)


def _optimizer(setting: Setting, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    wish = setting.recipe.train
    return optimizer(
        wish.optimizer,
        groups,
        weight_decay=wish.weight_decay,
        betas=wish.betas,
        schedule=wish.schedule,
        warmup=wish.warmup,
    )


def _trained(recipe: Recipe, run: RunDir, seconds: float) -> Trained:
    rows = run.metrics()
    losses = [row["loss"] for row in rows if "loss" in row][-20:]
    measured = [row["held_out"] for row in rows if "held_out" in row]
    return Trained(
        lora=run.lora_path,
        report=write_report(run) if processes.rank() == 0 else run.report_path,
        steps=recipe.train.steps,
        seconds=seconds,
        loss=sum(losses) / max(1, len(losses)),
        held_out=measured[-1] if measured else None,
    )


def _progress(setting: Setting, run: RunDir, trainee: Trainee) -> Progress:
    wish = setting.recipe.train
    chosen = _optimizer(setting, trainee.groups())
    average = Average(trainee.parameters, wish.ema) if wish.ema else None
    trainee.dropping(on=True)
    return Progress(setting, run, trainee, chosen, average)


def _announce(setting: Setting, trainee: Trainee, done: int, say: Say) -> None:
    wish = setting.recipe.train
    images = len({view.example.sha256 for view in setting.own})
    count = sum(p.numel() for p in trainee.parameters)
    kind = "held out" if setting.truly_held_out else "a fixed subset of the training images"
    say.line(
        f"{images} images, {len(setting.own)} views; {count:,} trained numbers on {setting.device.type} in "
        f"{str(setting.dtype).removeprefix('torch.')}; {wish.steps} steps of {wish.batch} = each image "
        f"{wish.steps * wish.batch / images:.1f} times; held-out loss on "
        f"{len(setting.held_out)} images ({kind})."
    )
    if setting.prior:
        usual = len({view.example.sha256 for view in setting.views[-setting.prior :]})
        say.line(
            f"Prior: {usual} pictures keep what the base knows, {setting.recipe.prior.batch} per step, "
            f"weight {setting.recipe.prior.weight:g}."
        )
    if done:
        say.line(f"Going on from step {done}." if done < wish.steps else f"All {done} steps are done.")


def _begin(progress: Progress, done: int, say: Say) -> None:
    """What is due before the next step: measure and paint the base, or the samples that a kill cut short."""
    run, wish = progress.run, progress.setting.recipe
    if done == 0:
        row = {"step": 0, "held_out": _held_out(progress, 0), "time": round(time.time(), 3)}
        if processes.rank() == 0:
            run.log(row)
            run.write_prompts(prompts_of(progress.setting))
    if _sampling(wish, done) and len(run.samples().get(done, {})) < len(prompts_of(progress.setting)):
        with progress.final_weights():
            sample(progress.trainee, run, done, say)


def _sampling(wish: Recipe, step: int) -> bool:
    every = wish.sample.every
    ends = step in (0, wish.train.steps)
    return every >= 0 and (ends or (every > 0 and step % every == 0))


def _loop(progress: Progress, done: int, say: Say, stop: Interrupt) -> None:
    """The loop: steps come out of ``fit``; what happens between two of them happens here."""
    run, wish = progress.run, progress.setting.recipe
    pace = Fit(
        parameters=progress.trainee.parameters,
        optimizer=progress.optimizer,
        rate=schedule(wish.train.schedule, wish.train.warmup, wish.train.steps),
        clip=wish.train.clip,
        average=progress.average,
        share=processes.sum_gradients if processes.world() > 1 else None,
    )
    clock = time.monotonic()
    with (
        tracked(wish, run) as track,
        say.steps("Training", wish.train.steps - done) as bar,
        stop.patient(),
    ):
        for step in fit(pace, progress.trainee.losses, start=done, steps=wish.train.steps):
            now = time.monotonic()
            row = _row(step, now - clock, wish)
            bar.advance(note=f"loss {step.loss:.4f}")
            _between(progress, step.number, row, say)
            track(row)
            if processes.anyone(stop.asked):
                if not run.checkpoint_path(step.number).exists():
                    progress.save(step.number, {"loss": step.loss})
                raise Stopped(
                    f"Stopped at step {step.number} of {wish.train.steps}; saved. "
                    f"Go on with: limner train {run.path}"
                )
            clock = time.monotonic()


def _row(step: Step, seconds: float, recipe: Recipe) -> dict[str, Any]:
    return {
        "step": step.number,
        "loss": step.loss,
        "norm": step.norm,
        "learning_rate": recipe.train.learning_rate * step.rate,
        "seconds": round(seconds, 4),
        "time": round(time.time(), 3),
    }


def _between(progress: Progress, step: int, row: dict[str, Any], say: Say) -> None:
    """Log a step; evaluate, save and sample when they are due."""
    wish, run = progress.setting.recipe, progress.run
    last = step == wish.train.steps
    saving = last or step % wish.train.save_every == 0
    every = wish.train.evaluate_every
    if last or (step % every == 0 if every else saving):
        with progress.final_weights():
            row["held_out"] = _held_out(progress, step)
    if processes.rank() == 0:
        run.log(row)
    if saving:
        progress.save(step, {"loss": row["loss"], "held_out": row.get("held_out")})
    if _sampling(wish, step):
        with progress.final_weights():
            sample(progress.trainee, run, step, say)


def _held_out(progress: Progress, step: int) -> float:
    """The held-out loss after ``step`` steps.

    Raises:
        Diverged: It is not finite, so that this state must not be saved.
    """
    loss = progress.trainee.held_out_loss()
    if math.isfinite(loss):
        return loss
    source, denoiser = progress.setting.source, progress.setting.family.denoiser
    if step:
        why = "Halve train.learning_rate, and run again: it goes on from the checkpoint before."
    else:
        why = f"The {denoiser} of {source.name} is damaged, or too large for limits.precision. {source.again}"
    raise Diverged(f"After step {step} the held-out loss is {loss}. {why}")


def _finish(progress: Progress, say: Say) -> None:
    """Export, unless the file of just these steps is there."""
    steps = progress.setting.recipe.train.steps
    if processes.rank() == 0 and exported_steps(progress.run) != steps:
        with progress.final_weights():
            export(progress.trainee, progress.run, say)
    processes.barrier()
