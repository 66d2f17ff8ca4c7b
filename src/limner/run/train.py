"""The verb ``train``: the whole line from cached values to an exported LoRA, resumable at every step."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limner.errors import BadCheckpoint, Stopped
from limner.nn import processes
from limner.nn.fit import Average, Fit, Step, fit
from limner.nn.optim import evaluation_mode, optimizer, schedule, training_mode
from limner.nn.pack import restore
from limner.recipe.schema import Recipe
from limner.run import checkpoint
from limner.run.cache import prompts_of, stock
from limner.run.export import export
from limner.run.report import write_report
from limner.run.rundir import RunDir
from limner.run.sample import sample
from limner.run.say import Say
from limner.run.setting import Setting, prepare
from limner.run.track import Trackers
from limner.run.trainee import Trainee


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
            checkpoint.save(
                self.run.checkpoint_path(step), parts, {"step": step, **facts, **shape(self.setting)}
            )
            self.run.prune(self.setting.recipe.train.keep, self.run.best(), checkpoint.whole)
        processes.barrier()

    def resume(self, say: Say) -> int:
        """Go on from the newest whole checkpoint; returns the steps already done."""
        found, refused = checkpoint.newest_whole(self.run)
        for each in refused:
            say.line(f"Checkpoint passed over: {each.reason}")
            if processes.rank() == 0:
                self.run.set_aside(each.path)
        if found is None:
            return 0
        mine = shape(self.setting)
        changed = [key for key in mine if found.facts.get(key) != mine[key]]
        if changed:
            raise BadCheckpoint(
                f"{found.path} was trained with another {' and '.join(changed)}. "
                "A run cannot change these: give the new recipe another folder with --out."
            )
        self.trainee.restore(found.parts["weights"])
        restore(self.optimizer, found.parts["optimizer"])
        if self.average and found.parts["average"] is not None:
            self.average.shadow = [each.to(self.setting.device) for each in found.parts["average"]]
        return found.step

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


def train(recipe: Recipe, out: Path, say: Say) -> Trained:
    """Train a LoRA as the recipe says, going on from the newest checkpoint if the run folder has one.

    Raises:
        Stopped: SIGINT or SIGTERM came; the state is saved.
        LimnerError: See the messages of ``limner.errors``.
    """
    processes.start()
    run = RunDir(out)
    with run.lock() if processes.rank() == 0 else nullcontext(), Interrupt() as stop:
        start = time.monotonic()
        setting = prepare(recipe)
        for each in setting.folder.rejected:
            say.line(f"Left out: {each.path.name}: {each.reason}")
        store, _ = stock(setting, run, say)
        trainee = Trainee(setting, store)
        progress = _progress(setting, run, trainee)
        done = progress.resume(say)
        if processes.rank() == 0:
            run.truncate(done if done else -1)
        _announce(setting, trainee, done, say)
        if recipe.train.steps > done or not run.lora_path.exists():
            _loop(progress, done, say, stop)
            _finish(progress, say)
        report = write_report(run) if processes.rank() == 0 else run.report_path
        rows = run.metrics()
        losses = [row["loss"] for row in rows if "loss" in row]
        measured = [row["held_out"] for row in rows if "held_out" in row]
        return Trained(
            lora=run.lora_path,
            report=report,
            steps=recipe.train.steps,
            seconds=time.monotonic() - start,
            loss=sum(losses[-20:]) / max(1, len(losses[-20:])),
            held_out=measured[-1] if measured else None,
        )


def _progress(setting: Setting, run: RunDir, trainee: Trainee) -> Progress:
    wish = setting.recipe.train
    chosen = optimizer(
        wish.optimizer,
        trainee.groups(setting.recipe),
        weight_decay=wish.weight_decay,
        betas=wish.betas,
        schedule=wish.schedule,
        warmup=wish.warmup,
    )
    average = Average(trainee.parameters, wish.ema) if wish.ema else None
    trainee.dropping(on=True)
    return Progress(setting, run, trainee, chosen, average)


def _announce(setting: Setting, trainee: Trainee, done: int, say: Say) -> None:
    wish = setting.recipe.train
    images = len({view.example.sha256 for view in setting.views})
    count = sum(p.numel() for p in trainee.parameters)
    kind = "held out" if setting.truly_held_out else "a fixed subset of the training images"
    say.line(
        f"{images} images, {len(setting.views)} views; {count:,} trained numbers on {setting.device.type} in "
        f"{str(setting.dtype).removeprefix('torch.')}; {wish.steps} steps of {wish.batch} = each image "
        f"{wish.steps * wish.batch / images:.1f} times; held-out loss on "
        f"{len(setting.held_out)} images ({kind})."
    )
    if done:
        say.line(f"Going on from step {done}.")


def _loop(progress: Progress, done: int, say: Say, stop: "Interrupt") -> None:
    """The loop: steps come out of ``fit``; what happens between two of them happens here."""
    run, wish = progress.run, progress.setting.recipe
    trackers = Trackers(wish, run) if processes.rank() == 0 else None
    several = processes.world() > 1
    pace = Fit(
        parameters=progress.trainee.parameters,
        optimizer=progress.optimizer,
        rate=schedule(wish.train.schedule, wish.train.warmup, max(1, wish.train.steps)),
        clip=wish.train.clip,
        average=progress.average,
        share=processes.sum_gradients if several else None,
    )
    if done == 0:
        _look(progress, 0, {}, say)
    clock = time.monotonic()
    with say.steps("Training", wish.train.steps - done) as bar:
        for step in fit(pace, progress.trainee.losses, start=done, steps=wish.train.steps):
            now = time.monotonic()
            row = _row(step, now - clock, wish)
            bar.advance(note=f"loss {step.loss:.4f}")
            _between(progress, step.number, row, say)
            if trackers:
                trackers.log(row)
            if stop.asked:
                if not run.checkpoint_path(step.number).exists():
                    progress.save(step.number, {"loss": step.loss})
                raise Stopped(
                    f"Stopped at step {step.number} of {wish.train.steps}; saved. "
                    f"Go on with: limner train {run.path}"
                )
            clock = time.monotonic()
    if trackers:
        trackers.close()


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
            row["held_out"] = progress.trainee.held_out_loss()
    if processes.rank() == 0:
        run.log(row)
    if saving:
        progress.save(step, {"loss": row["loss"], "held_out": row.get("held_out")})
    if wish.sample.every >= 0 and (last or (wish.sample.every and step % wish.sample.every == 0)):
        with progress.final_weights():
            sample(progress.trainee, run, step, say)


def _look(progress: Progress, step: int, row: dict[str, Any], say: Say) -> None:
    """Measure and paint the base, before the first step."""
    run, wish = progress.run, progress.setting.recipe
    row = {"step": step, "held_out": progress.trainee.held_out_loss(), "time": round(time.time(), 3), **row}
    if processes.rank() == 0:
        run.log(row)
        run.write_prompts(prompts_of(progress.setting))
    if wish.sample.every >= 0:
        sample(progress.trainee, run, step, say)


def _finish(progress: Progress, say: Say) -> None:
    if processes.rank() == 0:
        with progress.final_weights():
            export(progress.trainee, progress.run, say)
        say.line(f"LoRA: {progress.run.lora_path}")
    processes.barrier()


class Interrupt:
    """Turns SIGINT and SIGTERM into a question that the loop asks between two steps."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # only the main thread may; elsewhere the caller stops us
                break
        return self

    def _ask(self, number: int, frame: Any) -> None:
        del frame
        if self.asked and number == signal.SIGINT:  # asked twice: the user does not want to wait
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
