"""What is trained: the models that live units call, their adapters, their losses, their pictures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from limner.assembly.assemble import assemble
from limner.assembly.resolve import Resolved, cache_root
from limner.data.order import SampledView as Place
from limner.data.order import micro_batches
from limner.data.validation import QUANTILES
from limner.errors import BrokenGraph
from limner.graph.unit import run as run_units
from limner.lora.factors import Factors
from limner.models import sampling
from limner.models.family import SamplingParams
from limner.models.loading import load
from limner.models.scheduler import overrides_of
from limner.nn import distributed
from limner.nn.layers import lora
from limner.nn.memory import vae_tiling
from limner.nn.memory.engine import Engine, equip
from limner.nn.memory.plan import Plan
from limner.nn.memory.to_device import to_device
from limner.nn.parameter_state import get_state, load_state
from limner.nn.rng import Even, KeyedRng
from limner.training.cache import Store
from limner.training.encode import text_values
from limner.training.oom_retry import release


def rate(resolved: Resolved, name: str) -> float:
    """The learning rate at full strength of a trained model."""
    text_encoder = name != resolved.family.denoiser
    return resolved.spec.trainable.learning_rate(resolved.recipe.train, text_encoder=text_encoder)


def plain(resolved: Resolved) -> Plan:
    """The plan of nobody who has to save memory: whole micro-batches, everything kept."""
    wish, compute = resolved.recipe, resolved.spec.compute
    class_batch = wish.prior.batch if resolved.class_views else 0
    most = wish.limits.micro_batch or wish.train.batch + class_batch
    return Plan(compute=compute, weights=compute, micro_batch=most)


class TrainableModel:
    """The trained models of a run on its device, and what a step, a measurement and a sample are."""

    def __init__(self, resolved: Resolved, store: Store, plan: Plan | None = None) -> None:
        """``plan`` None means the plain way: nothing recomputed, streamed, or stored in few bits."""
        self.resolved, self.store, self.plan = resolved, store, plan or plain(resolved)
        self.order, self.class_order = resolved.order, resolved.class_order
        self.assembled = assemble(resolved.spec, self.plan, resolved.device, folder=self._folder)
        self.models, self.places = self.assembled.models, self.assembled.sample_keys
        self.offload = self.assembled.offload
        """Where the trained weights are, if not on the device."""
        self.engine = self._equipped()

    @property
    def _folder(self) -> Path | None:
        """Where weights go that stay on disk: a disk of that size, as /tmp may be memory."""
        return cache_root(self.resolved.recipe) if self.plan.mmap_weights else None

    def _equipped(self) -> Engine:
        arch, device = self.resolved.family.arch, self.resolved.device
        return equip(self.assembled.denoiser, arch, self.plan, device=device, folder=self._folder)

    def follow(self, plan: Plan) -> None:
        """Compute by another plan from now on; what is trained, and from which draws, stays.

        Raises:
            BrokenGraph: It stores weights in another way, which would be another training.
        """
        mine, other = (
            f"{each.compute} on {each.weights} weights and {each.matmul_precision} products"
            for each in (self.plan, plan)
        )
        if mine != other:
            raise BrokenGraph(
                f"A run in {mine} cannot go on in {other}. Give the new plan a folder of its own with --out."
            )
        self.engine.close()
        for name in self.resolved.first_layers:
            self.resolved.spec.trainable.clear(self.models[name])
        release(self.resolved.device)
        self.plan = plan
        self.engine = self._equipped()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything trained, in a fixed order."""
        return [weight for named in self.assembled.named().values() for weight in named.values()]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with their learning rates: the denoiser's, then the text encoders'."""
        return [
            {"params": list(named.values()), "lr": rate(self.resolved, name)}
            for name, named in self.assembled.named().items()
        ]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Model -> trained tensors by name."""
        return {name: get_state(named) for name, named in self.assembled.named().items()}

    def restore(self, state: Mapping[str, dict[str, Tensor]]) -> None:
        """Put back what :meth:`state` gave."""
        for name, named in self.assembled.named().items():
            found = state.get(name)
            load_state(named, found if isinstance(found, dict) else {})
        self.publish()

    def publish(self, *_: Any) -> None:
        """Have the device compute with the trained weights as they are, where those are on the host."""
        if self.offload:
            self.offload.publish()

    def adapters(self) -> dict[str, dict[str, Factors]]:
        """Component -> module -> factors, scale baked in: what is exported."""
        pairs = {name: lora.pairs(self.models[name]) for name in self.resolved.first_layers}
        return {name: {layer: Factors(*pair) for layer, pair in held.items()} for name, held in pairs.items()}

    def losses(self, step: int) -> Iterator[Tensor]:
        """The losses of this process's micro-batches of a step; over all processes they sum to the mean.

        Where there is a prior, to the mean over the images plus the weighted mean over the prior.
        """
        places = self._places(step)
        micros = micro_batches(places, self.resolved.views, self.plan.micro_batch)
        if self.offload:
            self.offload.forget()
        for micro in micros[distributed.rank() :: distributed.world()]:
            yield self._loss(step, micro)
            if self.offload:
                self.offload.gather()

    def _places(self, step: int) -> list[Place]:
        """The step's images, then its pictures of the prior, whose positions count down from -1."""
        places = self.order.step(step)
        if self.class_order:
            first = len(self.resolved.own)
            class_samples = self.class_order.step(step)
            places += [Place(-1 - sample.position, first + sample.view_index) for sample in class_samples]
        return places

    def _loss(self, step: int, micro: Sequence[Place]) -> Tensor:
        wish = self.resolved.recipe
        values = self.store.batch([place.view_index for place in micro], self.resolved.device)
        self.places[:] = [(wish.seed, step, place.position) for place in micro]
        image_weight, class_weight = 1 / wish.train.batch, wish.prior.weight / wish.prior.batch
        shares = torch.tensor([image_weight if place.position >= 0 else class_weight for place in micro])
        draw = KeyedRng(self.places)
        with self._arithmetic():
            loss = run_units(self.resolved.cut.live, self.models, values, draw)["loss"]
        return (loss * to_device(shares, loss.device)).sum()

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """Autocast where weights are trained, in fp32; beside a LoRA there is nothing left to cast."""
        resolved = self.resolved
        if not resolved.spec.autocasts:
            return nullcontext()
        # with its cache, autocast would hold a copy of every trained weight until the forward pass ends
        return torch.autocast(resolved.device.type, resolved.dtype, cache_enabled=False)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss over the held-out views at fixed quantiles of time and fixed noise."""
        resolved = self.resolved
        largest = self.plan.micro_batch
        self.dropping(on=False)
        total = 0.0
        for number in range(len(resolved.held_out)):
            for start in range(0, len(QUANTILES), largest):
                some = QUANTILES[start : start + largest]
                values = self.store.batch([len(resolved.views) + number] * len(some), resolved.device)
                draw = Even([("held-out", number, str(quantile)) for quantile in some], some)
                with self._arithmetic():
                    total += float(run_units(resolved.cut.live, self.models, values, draw)["loss"].sum())
        self.dropping(on=True)
        return total / (len(resolved.held_out) * len(QUANTILES))

    def dropping(self, *, on: bool) -> None:
        """Switch the adapters' dropout."""
        for name in self.resolved.first_layers:
            self.resolved.spec.trainable.set_dropout(self.models[name], on=on)

    @torch.no_grad()
    def paint(self, prompts: int) -> list[Image.Image]:
        """A picture for each of the run's prompts, by the family's stock sampler."""
        resolved, wish = self.resolved, self.resolved.recipe.sample
        first = len(resolved.views) + len(resolved.held_out)
        texts = [self._text(first + number) for number in range(prompts + 1)]
        models = dict(self.models)
        if "vae" not in models:
            how = {"dtype": resolved.dtype, "device": resolved.device}
            models["vae"] = load(resolved.family, resolved.source, "vae", **how)
        vae_tiling.tile(models["vae"], on=self.plan.decode_tiled)
        canvas = SamplingParams(
            width=wish.width or resolved.resolution,
            height=wish.height or resolved.resolution,
            steps=wish.steps,
            guidance=wish.guidance,
            seed=wish.seed,
            sampler=overrides_of(resolved.objective),
        )
        self.dropping(on=False)
        try:
            with self._arithmetic(), self._decoding(models["vae"]):
                return sampling.sample_images(
                    resolved.family, resolved.source, models, texts[:-1], texts[-1], canvas
                )
        finally:
            self.dropping(on=True)

    @contextmanager
    def _decoding(self, vae: Any) -> Iterator[None]:
        """While entered, an autoencoder decodes in the run's precision, whatever its weights are kept in."""
        if self.resolved.dtype == torch.float32:
            yield
            return
        vae.decode = torch.autocast(self.resolved.device.type, self.resolved.dtype)(vae.decode)
        try:
            yield
        finally:
            del vae.decode

    def _text(self, row: int) -> dict[str, Tensor]:
        """What the denoiser reads of a caption; computed by live units when a text encoder is trained."""
        resolved = self.resolved
        values: dict[str, Tensor] = self.store.batch([row], resolved.device)
        known = text_values(resolved)
        live = [unit for unit in resolved.cut.live if set(unit.writes) <= known]
        with self._arithmetic():
            values = run_units(live, self.models, values)
        return {name: values[name] for name in resolved.family.text}
