"""The training state around the loop: what a checkpoint holds, and which one to go on from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from limner.assembly.resolve import Resolved
from limner.early_stopping import EarlyStop, stopped_early
from limner.errors import BadCheckpoint, BadRecipe, DoesNotFit, first_line
from limner.events import PlanLowered
from limner.nn import distributed
from limner.nn.loop import Average, Fit
from limner.nn.memory.plan import OptimizerState
from limner.nn.optim import ScheduleForm, evaluation_mode, optimizer, schedule, training_mode
from limner.nn.serialize import restore
from limner.recipe.aliases import shown
from limner.recipe.optimizers import optimizer_of
from limner.recipe.schema import Recipe
from limner.reporter import Reporter, counted
from limner.run_folder import RunDir
from limner.training import checkpoint
from limner.training.export import ends_in, model_steps
from limner.training.model import TrainableModel
from limner.training.monitor import Watch
from limner.training.oom_fallback import OomFallback, lower_plan, outcome, retry_on_oom

T = TypeVar("T")

FREE_KEYS = (
    "data.images",
    "data.validation_images",
    "data.control",
    "data.cache",
    "prior.images",
    "train.steps",
    "train.save_every",
    "train.validation_every",
    "train.keep",
    "train.patience",
    "train.optimizer",
    "train.method",
)
"""Keys of the recipe that name places, shape no weights, or may not change at all."""
OPTIMIZER_KEYS = ("initial_lr", "weight_decay", "betas")
"""What a recipe may change of an optimizer within a run."""


@dataclass
class TrainState:
    """The training state around the loop: everything that a checkpoint holds."""

    resolved: Resolved
    run: RunDir
    model: TrainableModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Of a run in fp16; of any other it does nothing."""
    average: Average | None
    fallback: OomFallback
    watch: Watch

    def save(self, step: int, facts: dict[str, Any]) -> None:
        """Write the checkpoint of ``step`` and drop those that the recipe does not keep."""
        parts = self._parts() if distributed.rank() == 0 or self.model.parts else {}
        if distributed.rank() == 0:
            path = self.run.checkpoint_path(step)
            plan = self.fallback.plan
            storage = {
                "weights": plan.weights,
                "moments": plan.optimizer_state,
                "products": plan.matmul_precision,
                "code_modulations": plan.code_modulations,
            }
            facts = {"step": step, **storage, **facts, **shape(self.resolved)}
            facts["recipe"] = shaping(self.resolved.recipe)
            self.run.sync_metrics()
            checkpoint.save(path, parts, facts)
            checkpoint.retain(self.run, self.resolved.recipe.train.keep, saved=path)
        distributed.barrier()

    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds, whole; of weights that are split, in the first process."""
        split, average = self.model.parts, self.average.shadow if self.average else None
        return {
            "weights": self.model.state(),
            "optimizer": split.whole_state(self.optimizer) if split else self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": split.whole_list(average) if split and average else average,
        }

    def export_step(self, step: int) -> Path | None:
        """Write the LoRA after ``step`` steps, which other programs can use; None where a base is trained."""
        separate = self.model.parts and self.resolved.spec.trainable.separate
        if distributed.rank() != 0 and not separate:
            return None
        with self.final_weights():
            if distributed.rank() != 0:
                self.model.state()  # the part of this process, of what the first one writes
                return None
            return ends_in(self.resolved).write_step(self.model, self.run, step)

    def restore(self, last_checkpoint: checkpoint.LoadedCheckpoint) -> None:
        """Put back the state that :meth:`save` wrote, and let go of it; the recipe's optimizer settings stay.

        Raises:
            BadCheckpoint: It holds no such state, or that of another run.
        """
        match last_checkpoint.parts:
            case {"weights": dict(weights), "optimizer": dict(moments), "average": list() | None as average}:
                pass
            case _:
                raise BadCheckpoint(
                    f"{last_checkpoint.path} is not the state of a training. {checkpoint.REMEDY}"
                )
        try:
            self.model.restore(weights)
            split = self.model.parts
            self._restore_optimizer(split.part_state(self.optimizer, moments) if split else moments)
            if self.scaler.is_enabled() and (scale := last_checkpoint.parts.get("scaler")):
                self.scaler.load_state_dict(scale)
            if self.average:  # one that the recipe turns on now begins at these weights
                parts = split.part_list(average) if split and average else average
                self.average.start(parts or self.model.parameters)
        except (BadCheckpoint, BadRecipe) as error:
            raise BadCheckpoint(f"{last_checkpoint.path}: {error}") from error
        is_finite = all(parameter.isfinite().all() for parameter in self.model.parameters)
        if distributed.any_rank(not is_finite):
            raise BadCheckpoint(
                f"{last_checkpoint.path} holds weights that are not finite. {checkpoint.REMEDY} Lower "
                "train.learning_rate, too."
            )
        last_checkpoint.parts.clear()  # of a full fine-tune, thrice the size of the model

    def _restore_optimizer(self, state: dict[str, Any]) -> None:
        groups = self.optimizer.param_groups
        recipe_options = [{key: group[key] for key in OPTIMIZER_KEYS if key in group} for group in groups]
        restore(self.optimizer, state)
        for group, options in zip(self.optimizer.param_groups, recipe_options, strict=True):
            group.update(options)

    def first_lines(self, start_step: int, early_end: EarlyStop | None = None) -> list[str]:
        """Images, parameters, steps and what validation loss is of; the prior; where the run goes on."""
        resolved, train_config = self.resolved, self.resolved.recipe.train
        images = len({view.example.sha256 for view in resolved.own})
        parts = self.model.parts
        count = parts.numbers if parts else sum(p.numel() for p in self.model.parameters)
        kind = "held out" if resolved.truly_held_out else "a fixed subset of the training images"
        dtype = str(resolved.dtype).removeprefix("torch.")
        epochs = train_config.steps * train_config.batch / images
        lines = [
            f"{counted(images, 'image')}, {counted(len(resolved.own), 'view')}; {count / 1e6:.2f}M trainable "
            f"parameters on {resolved.device.type} in {dtype}; {counted(train_config.steps, 'step')} of "
            f"{train_config.batch} = each image {epochs:.1f} times; validation loss on "
            f"{counted(len(resolved.held_out), 'image')} ({kind})."
        ]
        lines += [self.model.slider.described()] if self.model.slider else []
        if adapter := resolved.spec.adapter:
            lines.append(
                f"Training adapter: {adapter.name}, {len(adapter.layers)} layers, "
                f"{adapter.bytes / 2**20:.1f} MB beside the frozen weights; no sample and no exported file "
                "has it."
            )
        captions = [view.caption for view in resolved.own]
        lines += resolved.spec.trainable.first_lines(resolved.spec, self.model.models, captions)
        prior = resolved.recipe.prior
        if prior.kind == "experts":
            lines.append(
                f"Prior: LoRAs of {counted(resolved.class_views, 'image')} keep their effect, {prior.batch} "
                f"per step, weight {prior.weight:g}."
            )
        elif prior.taught:
            captions = sorted({view.caption for view in resolved.views[-resolved.class_views :]})
            lines.append(
                f"Prior: the bare base is the teacher of {counted(len(captions), 'caption')} without the "
                f'trigger (the first: "{captions[0][:80]}"), {prior.batch} per step, weight {prior.weight:g}.'
            )
        elif resolved.class_views:
            class_images = len({view.example.sha256 for view in resolved.views[-resolved.class_views :]})
            lines.append(
                f"Prior: {class_images} pictures keep what the base knows, {resolved.recipe.prior.batch} per "
                f"step, weight {resolved.recipe.prior.weight:g}."
            )
        if early_end:
            lines.append(f"{early_end.text} To go on, raise train.patience or remove it.")
        elif start_step:
            is_pending = start_step < train_config.steps
            lines.append(
                f"Going on from step {start_step}." if is_pending else f"All {start_step} steps are done."
            )
        return lines

    def require_room(self) -> None:
        """Raise ``DiskFull`` unless the disk holds the checkpoints that the recipe keeps, and the model."""
        train_config, disk = self.resolved.recipe.train, self.fallback.run_plan.disk
        if distributed.rank() == 0:
            needs_export = model_steps(self.run) != train_config.steps
            model = disk["model"] if needs_export else 0
            loras = sum(path.stat().st_size for _, path in self.run.step_loras())
            others = model + max(0, disk["loras"] - loras)
            checkpoint.require_room(
                self.run, disk["checkpoints"], train_config.checkpoints_held, others=others
            )

    def room_for(self, act: Callable[[], T], step: int, reporter: Reporter) -> T:
        """Do something with the final weights after a step; out of memory, step down and do it again.

        Raises:
            DoesNotFit: No smaller plan is left.
        """

        def with_them() -> T:
            with self.final_weights():
                return act()

        if self.model.sharding:  # whoever is short of memory cannot tell others, who wait for its part
            try:
                return with_them()
            except torch.OutOfMemoryError as error:
                self.step_down(step, first_line(error), reporter)
        return retry_on_oom(with_them, lambda short: self.step_down(step, short, reporter))

    def step_down(self, step: int, short: str, reporter: Reporter) -> None:
        """Go on by the next smaller plan after ``step`` finished steps; by one more if that has no room.

        Raises:
            DoesNotFit: There is none.
        """
        if self.model.sharding:
            raise DoesNotFit(
                f"Out of memory after step {step}, in process {distributed.rank()} of a run whose weights "
                "are split over its processes, so that none goes on alone. The same command goes on from the "
                "newest checkpoint: lower limits.vram by 1GB, or set limits.micro_batch = 1."
            )
        oom_message: str | None = short
        while oom_message is not None:
            device = self.resolved.device
            difference, row = lower_plan(self.fallback, self.fallback.down, oom_message, device)
            reporter.line(
                f"Out of memory after step {step}. Going on by a smaller plan, with the same batch and the "
                f"same draws: {difference}."
            )
            reporter.event(PlanLowered(step=step, changes=difference))
            if distributed.rank() == 0:
                self.run.write_plan(self.fallback.run_plan.record)
                self.run.log({"step": step, **row})
            oom_message = self._follow()
        self.watch = self.fallback.watch()

    def _follow(self) -> str | None:
        """Compute by the plan in use from now on; what torch says where memory runs out at that."""
        return outcome(lambda: self.model.follow(self.fallback.plan))[1]

    def loop_settings(self) -> Fit:
        """What the loop trains and how far each step goes, by the plan in use."""
        train_config, is_distributed = self.resolved.recipe.train, distributed.world() > 1
        form = ScheduleForm(
            train_config.schedule_cycles, train_config.schedule_power, train_config.schedule_decay
        )
        split = self.model.parts
        share = distributed.sum_on_host if self.model.offload else distributed.sum_gradients
        return Fit(
            parameters=self.model.parameters,
            optimizer=self.optimizer,
            rate=schedule(train_config.schedule, train_config.warmup, train_config.steps, form),
            scaler=self.scaler,
            clip=train_config.clip,
            average=self.average,
            half_gradients=self.model.half_gradients,
            share=split.sum if split else share if is_distributed else None,
            norm=split.norm if split else None,
            anyone=distributed.any_rank if is_distributed and not self.model.sharding else bool,
            reserve=self.fallback.run_plan.optimizer_bytes if self.resolved.device.type == "cuda" else (0, 0),
        )

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        """The weights that a user gets: averaged ones, where the recipe or the optimizer averages."""
        evaluation_mode(self.optimizer)
        if self.average:
            self.average.swap()
        self.model.publish()
        try:
            yield
        finally:
            if self.average:
                self.average.swap()
            training_mode(self.optimizer)
            self.model.publish()


def optimizer_for(
    resolved: Resolved, groups: list[dict[str, Any]], moments: OptimizerState
) -> torch.optim.Optimizer:
    """The recipe's optimizer for groups of parameters, its moments stored as the plan says."""
    train_config = resolved.recipe.train
    in_8_bits = optimizer_of(train_config.optimizer).in_8_bits if moments == "8bit" else ""
    return optimizer(
        in_8_bits or train_config.optimizer,
        groups,
        weight_decay=train_config.weight_decay,
        betas=train_config.betas,
        schedule=train_config.schedule,
        warmup=train_config.warmup,
        arguments=train_config.optimizer_args,
    )


def shape(resolved: Resolved) -> dict[str, Any]:
    """What may not change within a run. No paths: a run folder may move to another machine."""
    recipe = resolved.recipe
    return {
        "base": resolved.source.fingerprint(resolved.family.denoiser, ""),
        "lora": recipe.lora.model_dump(mode="json"),
        "optimizer": recipe.train.optimizer,
        "method": recipe.train.method,
        "adapter": resolved.spec.adapter.sha256 if resolved.spec.adapter else "",
        **resolved.spec.trainable.shape(),
    }


def newest(resolved: Resolved, run: RunDir, reporter: Reporter) -> checkpoint.LoadedCheckpoint | None:
    """The checkpoint to go on from, before anything is computed; None at the start of a run.

    Raises:
        BadCheckpoint: It belongs to another base, another LoRA, or more steps than are wished for; or there
            are checkpoints, and none that can be read: to start again is not for us to decide.
    """
    last_checkpoint, refusals = checkpoint.newest_whole(run)
    last_checkpoint, refusals = checkpoint.of_first(last_checkpoint), distributed.from_first(refusals)
    if refusals and last_checkpoint is None:
        raise BadCheckpoint(
            f"None of the {len(refusals)} checkpoints in {run.checkpoints_path} can be read. The newest: "
            f"{refusals[0].reason.removesuffix(checkpoint.REMEDY).strip()} Put back a copy, or start again: "
            "delete that folder, or choose another with --out."
        )
    for refusal in refusals if distributed.rank() == 0 else ():
        reporter.line(f"Checkpoint passed over: {refusal.reason}")
        run.mark_damaged(refusal.path)
    if last_checkpoint is None:
        return None
    current, previous = shape(resolved), checkpoint.completed(last_checkpoint.facts)
    if differences := [key for key, value in current.items() if previous.get(key) != value]:
        raise BadCheckpoint(
            f"{last_checkpoint.path} was trained with another {' and '.join(differences)}"
            f"{checkpoint.difference_text(previous, current)}. "
            "A run cannot change these: give the new recipe another folder with --out."
        )
    if last_checkpoint.step > resolved.recipe.train.steps:
        raise BadCheckpoint(
            f"{run.path} has {last_checkpoint.step} steps already, and train.steps is "
            f"{resolved.recipe.train.steps}. Set train.steps to at least {last_checkpoint.step}, "
            "or choose another folder with --out."
        )
    if drift := _drift(last_checkpoint.facts, resolved.recipe):
        train_config = resolved.recipe.train
        early_end = stopped_early(run, train_config.patience, last_checkpoint.step)
        if last_checkpoint.step == train_config.steps or early_end:
            key = "train.patience" if early_end else "train.steps"
            raise BadCheckpoint(
                f"{run.path} is complete, and its {last_checkpoint.step} steps were trained by another "
                f"recipe ({drift}). Raise {key} to go on by the new one, or choose another folder: "
                "--out."
            )
        reporter.line(
            f"The recipe has changed since step {last_checkpoint.step}; going on by the new one ({drift})."
        )
    return last_checkpoint


def shaping(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says that shapes the weights and may change within a run, by dotted path. No paths."""
    table = recipe.model_dump(mode="json", by_alias=True)
    entries: dict[str, Any] = {"name": recipe.name, "seed": recipe.seed}
    for part in ("data", "train", "prior", "distill", "slider", "inversion"):
        entries |= {f"{part}.{key}": value for key, value in table[part].items()}
    if isinstance(recipe.data.masks, Path):
        entries["data.masks"] = "a folder"
    return {key: value for key, value in entries.items() if key not in FREE_KEYS}


def _drift(facts: dict[str, Any], recipe: Recipe) -> str:
    """What a recipe says otherwise than that of a checkpoint, in words; usually nothing."""
    before = facts.get("recipe")
    if not isinstance(before, dict):  # of before it was noted
        return ""
    before, now = {**shaping(Recipe()), **before}, shaping(recipe)
    differences = [key for key, value in now.items() if before[key] != value]
    notes = {"train.init": ", which counts at step 0 alone"}
    return "; ".join(
        f"{key} was {shown(before[key])}, is {shown(now[key])}{notes.get(key, '')}" for key in differences
    )
