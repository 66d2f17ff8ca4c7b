"""What is trained: the models that live units call, their adapters, their losses, their pictures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from limner.assembly.assemble import ModelSpec, assemble
from limner.assembly.resolve import Resolved, cache_root
from limner.assembly.training_adapter import enable_pairs
from limner.data.order import QUANTILES, Pace, SampledView, micro_batches, passes
from limner.errors import BrokenGraph, LimnerError, Stopped, first_line
from limner.graph.unit import run as run_units
from limner.imports import imported
from limner.lora.adapters import WeightDelta
from limner.lora.keys import ModuleTensors
from limner.models import sampling
from limner.models.family import SamplingParams
from limner.models.loading import load
from limner.models.sampling import Branch, overrides_of
from limner.nn import distributed
from limner.nn.arch import get_state, load_state
from limner.nn.layers import lora
from limner.nn.layers.adapter import Adapter
from limner.nn.memory.engine import Engine, equip, tile_vae
from limner.nn.memory.offload import HalfGradients, decoding
from limner.nn.memory.plan import Plan
from limner.nn.rng import Even, KeyedRng, to_device
from limner.training.cache import Store, joined
from limner.training.oom_fallback import release
from limner.training.rows import text_values
from limner.training.samples import at_strength, images_of, prompt_groups, sample_prompts

if TYPE_CHECKING:
    from limner.nn.memory.parts import Parts


def rate(resolved: Resolved, name: str) -> float:
    """The learning rate at full strength of a trained model."""
    text_encoder = name != resolved.family.denoiser
    return resolved.spec.trainable.learning_rate(resolved.recipe.train, text_encoder=text_encoder)


def plain(resolved: Resolved) -> Plan:
    """The plan of nobody who has to save memory: whole micro-batches, everything kept."""
    recipe, compute = resolved.recipe, resolved.spec.compute
    class_batch = recipe.prior.batch if resolved.class_views else 0
    micro_batch = recipe.limits.micro_batch or recipe.train.batch + class_batch
    return Plan(compute=compute, weights=compute, micro_batch=micro_batch)


class TrainableModel:
    """The trained models of a run on its device, and what a step, a measurement and a sample are."""

    def __init__(self, resolved: Resolved, store: Store, plan: Plan | None = None) -> None:
        """``plan`` None means the plain way: nothing recomputed, streamed, or stored in few bits."""
        self.resolved, self.store, self.plan = resolved, store, plan or plain(resolved)
        self.recipe, self.device, self.live_units = resolved.recipe, resolved.device, resolved.cut.live
        self.autocasts, self.order = resolved.spec.autocasts, resolved.order
        self.class_order, self.taught = resolved.class_order, self.recipe.prior.taught
        self.led_back = self.recipe.instant.target == "base"
        self.set_weights = [entry.weight for entry in resolved.recipe.data.folders]
        self.process = distributed.rank()
        self.paces: Sequence[Pace] = [Pace(self.plan.micro_batch)] * distributed.world()
        """The processes of the run, this one among them; all alike until they have told each other."""
        self.assembly = assemble(resolved.spec, self.plan, resolved.device, folder=self._folder)
        self.models, self.sample_keys = self.assembly.models, self.assembly.sample_keys
        text_units = [unit for unit in self.live_units if set(unit.writes) <= text_values(resolved)]
        self._read = partial(run_units, text_units, self.models)
        self.offload = self.assembly.offload
        """Where the trained weights are, if not whole on the device."""
        self.sharding = self.assembly.sharding
        self.engine, self.half_gradients = self._equipped(), self._halved()
        is_slider = self.recipe.train.objective == "slider"
        self.full_rate = rate(resolved, next(iter(resolved.first_layers)))
        """Learning rate at full strength of the model that is trained first: the denoiser's, if it is."""
        self.slider = imported("limner.training.slider:SliderLoss")(self) if is_slider else None
        self.at_strengths = self.slider.at_strengths if self.slider else lambda items, compute: compute(items)

    @property
    def _folder(self) -> Path | None:
        """Where weights go that stay on disk: a disk of that size, as /tmp may be memory."""
        return cache_root(self.resolved.recipe) if self.plan.mmap_weights else None

    def _equipped(self) -> Engine:
        arch, device = self.resolved.family.arch, self.resolved.device
        return equip(self.assembly.denoiser, arch, self.plan, device=device, folder=self._folder)

    def _halved(self) -> HalfGradients | None:
        return HalfGradients(self.assembly.denoiser) if self.plan.gradients == "bf16" else None

    def follow(self, plan: Plan) -> None:
        """Compute by another plan from now on; what is trained, and from which draws, stays.

        Raises:
            BrokenGraph: It stores weights in another way, which would be another training.
        """
        precision, new_precision = (
            f"{candidate.compute} on {candidate.weights} weights and {candidate.matmul_precision} products"
            + candidate.code_modulations * ", modulations in NF4"
            for candidate in (self.plan, plan)
        )
        if precision != new_precision:
            raise BrokenGraph(
                f"A run in {precision} cannot go on in {new_precision}. Give the new plan a folder of "
                "its own with --out."
            )
        self.engine.close()
        if self.half_gradients:
            self.half_gradients.close()
        for name in self.resolved.first_layers:
            self.resolved.spec.trainable.clear(self.models[name])
        release(self.resolved.device)
        self.plan = plan
        self.paces = [Pace(plan.micro_batch)] * len(self.paces)
        self.engine, self.half_gradients = self._equipped(), self._halved()

    @property
    def parts(self) -> "Parts | None":
        """The parts of the trained weights, where those are split over processes."""
        return self.sharding if self.offload is self.sharding else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything trained, in a fixed order."""
        return [weight for weights in self.assembly.named().values() for weight in weights.values()]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with their learning rates: the denoiser's, then the text encoders'."""
        spec, groups = self.resolved.spec, []
        for name, weights in self.assembly.named().items():
            multipliers = spec.trainable.rates(spec, name, self.models[name])
            members: dict[float, list[nn.Parameter]] = {}
            for key, weight in weights.items():
                members.setdefault(multipliers.get(key, 1.0), []).append(weight)
            full_rate = rate(self.resolved, name)
            groups += [
                {"params": parameters, "lr": full_rate * multiplier}
                for multiplier, parameters in members.items()
            ]
        return groups

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Model -> trained tensors by name.

        Those that are split over processes are whole in the first one, and all of them ask together.
        """
        states = {name: get_state(weights) for name, weights in self.assembly.named().items()}
        if self.parts:
            return {name: self.parts.whole_weights(state) for name, state in states.items()}
        return states

    def restore(self, state: Mapping[str, dict[str, Tensor]]) -> None:
        """Put back what :meth:`state` gave."""
        for name, weights in self.assembly.named().items():
            tensors = state.get(name)
            tensors = tensors if isinstance(tensors, dict) else {}
            load_state(weights, self.parts.part_weights(tensors) if self.parts else tensors)
        self.publish()

    def listen(self, optimizer: torch.optim.Optimizer) -> None:
        """Do after each of its steps what is to be done then."""
        for hook in (*self.resolved.spec.trainable.after_step(self.models), self.publish):
            optimizer.register_step_post_hook(hook)

    def publish(self, *_: Any) -> None:
        """Have the device compute with the trained weights as they are, where those are on the host."""
        if self.offload:
            self.offload.publish()

    def adapters(self) -> dict[str, dict[str, WeightDelta]]:
        """Component -> module -> change, scale baked in: what is exported."""
        return {
            name: {
                layer: ModuleTensors(layer, adapter.exported()).delta(kernel=adapter.kernel)
                for layer, adapter in lora.attached(self.models[name]).items()
            }
            for name in self.resolved.first_layers
            if lora.attached(self.models[name])
        }

    def losses(self, step: int) -> Iterator[Tensor]:
        """The losses of this process's micro-batches of a step; over all processes they sum to the mean.

        Where there is a prior, to the mean over the images plus the weighted mean over the prior.
        """
        shares = micro_batches(self._samples(step), self.resolved.views, self.paces)
        if self.offload:
            self.offload.forget()
        for micro, weight in passes(shares, self.process, alike=self.sharding is not None):
            yield from (loss * weight if self.sharding else loss for loss in self._losses(step, micro))
            if self.offload:
                self.offload.gather()

    def _samples(self, step: int) -> list[list[SampledView]]:
        """The step's images, then its pictures of the prior, whose positions count down from -1.

        Two lists where the bare base answers first for those of the prior: they share no micro-batch then.
        """
        samples = self.order.step(step)
        if not self.class_order:
            return [samples]
        first = len(self.resolved.own)
        class_samples = [
            SampledView(-1 - position, first + index, tuple(first + row for row in rows))
            for position, index, rows in self.class_order.step(step)
        ]
        return [samples, class_samples] if self.taught else [samples + class_samples]

    def _losses(self, step: int, micro: Sequence[SampledView]) -> Iterator[Tensor]:
        """The loss of a micro-batch; of a slider one for each way."""
        self.sample_keys[:] = [(self.recipe.seed, step, sample.position) for sample in micro]
        shares = to_device(torch.tensor([self._share(sample) for sample in micro]), self.device)
        rows, draw = [sample.view_index for sample in micro], KeyedRng(self.sample_keys)
        if self.slider:
            yield from ((loss * shares).sum() for loss in self.slider.losses(rows, draw))
            return
        with self._arithmetic():
            values = joined(self.store, micro, self.device, self._read)
            is_prior = micro[0].position < 0
            if self.taught if is_prior else self.led_back:
                values["target"] = self._teacher(values, draw, None if is_prior else self.assembly.denoiser)
            loss = run_units(self.live_units, self.models, values, draw)["loss"]
        yield (loss * shares).sum()

    def _share(self, sample: SampledView) -> float:
        """What the loss of an image counts in the loss of its step."""
        if sample.position < 0:
            return self.recipe.prior.weight / self.recipe.prior.batch
        weight = self.set_weights[self.resolved.views[sample.view_index].example.dataset]
        return weight / self.recipe.train.batch / (len(self.slider.signs) if self.slider else 1)

    @torch.no_grad()
    def _teacher(self, values: dict[str, Tensor], draw: KeyedRng, model: nn.Module | None) -> Tensor:
        """What the base without its adapters, or one model without, says at the same noise and times."""
        with self.bare(model):
            return run_units(self.live_units, self.models, values, draw)["pred"].detach()

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """Autocast where weights are trained, in fp32; beside a LoRA there is nothing left to cast."""
        if not self.autocasts:
            return nullcontext()
        # with its cache, autocast would hold a copy of every trained weight until the forward pass ends
        return torch.autocast(self.device.type, self.resolved.dtype, cache_enabled=False)

    def validation_loss(self) -> float:
        """Mean loss over the validation views at fixed quantiles of time and fixed noise."""
        return sum(losses := self.validation_losses()) / len(losses)

    @torch.no_grad()
    def validation_losses(self) -> list[float]:
        """The mean loss of each validation view, likewise."""
        resolved, largest, losses = self.resolved, self.plan.micro_batch, list[float]()
        self.dropping(enabled=False)
        for number in range(len(resolved.held_out)):
            total = 0.0
            for start in range(0, len(QUANTILES), largest):
                quantiles = QUANTILES[start : start + largest]
                draw = Even([("held-out", number, str(quantile)) for quantile in quantiles], quantiles)
                if self.slider:
                    total += self.slider.validation(number, draw)
                    continue
                values = self.store.drawn([resolved.measured(number)] * len(quantiles), resolved.device)
                with self._arithmetic():
                    total += float(run_units(resolved.cut.live, self.models, values, draw)["loss"].sum())
            losses.append(total / len(QUANTILES))
        self.dropping(enabled=True)
        return losses

    def dropping(self, *, enabled: bool) -> None:
        """Switch the adapters' dropout."""
        for name in self.resolved.first_layers:
            self.resolved.spec.trainable.set_dropout(self.models[name], enabled=enabled)

    @torch.no_grad()
    def sample(self, prompts: int) -> list[Image.Image]:
        """A picture for each of the run's prompts, by the family's stock sampler."""
        resolved, base = self.resolved, self.resolved.sample_base
        sample_config = resolved.recipe.sample
        first = len(resolved.views) + len(resolved.held_out)
        select = self._select if sample_config.lora_on == "positive" else None
        items = sample_prompts(resolved)
        adapter_models = [self.models[name] for name in resolved.first_layers]
        texts = self.at_strengths(
            range(first, first + prompts),
            lambda rows: [
                at_strength(adapter_models, items[n - first].own_strength, partial(self._text, n))
                for n in rows
            ],
        )
        with self.bare() if select else nullcontext():
            empties = [self._text(row) for row in range(first + prompts, len(self.store.rows))]
        models = dict(self.models)
        if "vae" not in models:
            options = {"dtype": resolved.dtype, "device": resolved.device}
            models["vae"] = load(resolved.family, resolved.source, "vae", **options)
        tile_vae(models["vae"], on=self.plan.decode_tiled)
        sampling_params = SamplingParams(
            width=sample_config.width or resolved.resolution,
            height=sample_config.height or resolved.resolution,
            steps=base.steps,
            guidance=base.guidance,
            seed=sample_config.seed,
            sampler=overrides_of(resolved.objective),
        )
        with (
            self._on_sample_base(),
            self._negative_model(sampling_params) as negative_model,
            self._arithmetic(),
            decoding(models["vae"], resolved.device, resolved.dtype),
        ):
            if resolved.spec.trainable.separate:
                values = self.store.drawn([resolved.measured(0)], resolved.device)
                resolved.spec.trainable.show(self.live_units, self.models, values, self.assembly.denoiser)
            models |= {resolved.family.denoiser: self.assembly.denoiser, **negative_model}
            generate = partial(sampling.sample_images, resolved.family, base.source, models, select=select)
            return self.at_strengths(
                texts,
                lambda texts: images_of(
                    prompt_groups(resolved, texts, empties, sampling_params), items, adapter_models, generate
                ),
            )

    def _negative_model(self, params: SamplingParams) -> AbstractContextManager[Mapping[str, nn.Module]]:
        """What makes the negative pass of samples, by its name, where that is no pass of the denoiser."""
        if not self.resolved.family.guidance.model:
            return nullcontext({})
        opened = imported("limner.training.negative_model:opened")
        return opened(self.resolved, self.plan, self._folder, params.guidance)

    @contextmanager
    def _on_sample_base(self) -> Iterator[None]:
        """While entered, the denoiser is that of samples: without dropout and training adapter.

        The denoiser of another base takes the place of the frozen weights; they are read again at the end.

        Raises:
            Stopped: They cannot be read again.
        """
        resolved = self.resolved
        self.dropping(enabled=False)
        enable_pairs(self.assembly.denoiser, enabled=False)
        adapters = lora.attached(self.assembly.denoiser) if resolved.samples_elsewhere else {}
        try:
            if adapters:
                self._exchange(
                    replace(resolved.spec, source=resolved.sample_base.source, adapter=None), adapters
                )
            yield
        finally:
            if adapters:
                self._exchange_back(adapters)
            enable_pairs(self.assembly.denoiser, enabled=True)
            self.dropping(enabled=True)

    def _exchange(self, spec: ModelSpec, adapters: Mapping[str, Adapter]) -> None:
        self.engine.close()
        exchange = imported("limner.assembly.exchange:exchange")  # few runs sample on another base
        exchange(self.assembly, spec, adapters, self.plan, self.device, self._folder)
        release(self.device)
        self.engine = self._equipped()

    def _exchange_back(self, adapters: Mapping[str, Adapter]) -> None:
        release(self.device)
        try:
            self._exchange(self.resolved.spec, adapters)
        except (LimnerError, RuntimeError, OSError) as error:
            raise Stopped(
                f"{self.resolved.source.name} could not be read again after samples on "
                f"{self.resolved.sample_base.source.name} ({first_line(error)}). Checkpoints are whole: run "
                'the same command to go on, with sample.base = "own" if it happens again.'
            ) from error

    def _select(self, model: nn.Module, branch: Branch) -> None:
        """The adapters on the positive branch of guidance only."""
        self.resolved.spec.trainable.enable(model, enabled=branch == "positive")

    @contextmanager
    def bare(self, model: nn.Module | None = None) -> Iterator[None]:
        """While entered, the trained models, or one model, are those of the base."""
        models = [self.models[name] for name in self.resolved.first_layers] if model is None else [model]
        for module in models:
            self._select(module, "negative")
        try:
            yield
        finally:
            for module in models:
                self._select(module, "positive")

    def _text(self, row: int) -> dict[str, Tensor]:
        """What the denoiser reads of a caption; computed by live units when a text encoder is trained."""
        with self._arithmetic():
            values = self._read(self.store.batch([row], self.device))
        return {name: values[name] for name in self.resolved.family.text}
