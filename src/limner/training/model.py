"""What is trained: the models that live units call, their adapters, their losses, their pictures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from limner.assembly.resolve import Setting, cache_root
from limner.data.order import Draw as Place
from limner.data.order import micro_batches
from limner.data.validation import QUANTILES
from limner.errors import BrokenGraph
from limner.graph.unit import run as run_units
from limner.lora.factors import Factors
from limner.models import sampling
from limner.models.family import Canvas
from limner.models.loading import load
from limner.models.scheduler import wished
from limner.nn import distributed
from limner.nn.layers import full, lora
from limner.nn.layers.dropout import Places
from limner.nn.memory import vae_tiling
from limner.nn.memory.cast_inputs import cast_once
from limner.nn.memory.engine import Engine, equip
from limner.nn.memory.offload import Offload
from limner.nn.memory.placement import Placement
from limner.nn.memory.to_device import to_device
from limner.nn.parameter_state import get_state, load_state
from limner.nn.rng import Even, KeyedRng, seed_of
from limner.planning.plan import Plan
from limner.training.cache import Store
from limner.training.encode import text_values
from limner.training.oom_retry import release


def targets(setting: Setting, name: str, model: nn.Module) -> dict[str, int]:
    """The layers of ``model`` (or of its skeleton) that the recipe trains, and the rank of each.

    Raises:
        BadRecipe: A target matches nothing, or a rank is for convolutions and there are none.
    """
    family, wish = setting.family, setting.recipe.lora
    endings = family.endings(name, wish.targets)
    layers = family.layers.get(name, "")
    until = family.depth(setting.source, name) if layers else None
    names = lora.matching(model, endings, layers=layers, since=setting.trained[name], until=until)
    return lora.ranks(model, names, wish.rank, wish.conv_rank if name == family.denoiser else None)


def rate(setting: Setting, name: str) -> float:
    """The learning rate of a trained model: text encoders may have one of their own."""
    wish = setting.recipe.train
    if name == setting.family.denoiser:
        return wish.learning_rate
    return wish.text_encoder_learning_rate or wish.learning_rate


def plain(setting: Setting) -> Plan:
    """The plan of nobody who has to save memory: whole micro-batches, everything kept."""
    wish = setting.recipe
    compute = "bf16" if setting.dtype == torch.bfloat16 else "fp32"
    usual = wish.prior.batch if setting.prior else 0
    most = wish.limits.micro_batch or wish.train.batch + usual
    return Plan(compute=compute, weights=compute, micro_batch=most)


class Trainee:
    """The trained models of a run on its device, and what a step, a measurement and a sample are."""

    def __init__(self, setting: Setting, store: Store, plan: Plan | None = None) -> None:
        """``plan`` None means the plain way: nothing recomputed, streamed, or stored in few bits."""
        self.setting, self.store, self.plan = setting, store, plan or plain(setting)
        self.order, self.prior_order = setting.order, setting.prior_order
        self.places: Places = []
        self.offload: Offload | None = None
        """Where the trained weights are, if not on the device."""
        wish = setting.recipe
        self.models: dict[str, Any] = {name: self._load(name) for name in setting.cut.loaded}
        for name, model in ((name, self.models[name]) for name in setting.trained):
            if setting.full:
                full.unfreeze(model)
                if self.plan.optimizer_state == "host":
                    self.offload = Offload(model, dtype=setting.dtype, device=setting.device)
                continue
            lora.attach(
                model,
                targets(setting, name, model),
                rank=wish.lora.rank,
                alpha=wish.lora.alpha or wish.lora.rank,
                dropout=wish.lora.dropout,
                seed=seed_of(wish.seed, "lora", name),
                places=self.places,
            )
            if setting.device.type == "cuda":
                lora.together(self.models[name])
        if setting.dtype != torch.float32 and not setting.full:
            cast_once(self.models[setting.family.denoiser], setting.family.arch, setting.dtype)
        self.engine = self._equipped()

    def _load(self, name: str) -> Any:
        """A model; of the denoiser those parts on the host that are to stay there."""
        setting, plan = self.setting, self.plan
        dtype = torch.float32 if setting.full and name in setting.trained else setting.dtype
        how: dict[str, Any] = {"dtype": dtype, "device": setting.device}
        if name == setting.family.denoiser:
            how |= {"weights": plan.codes, "products": plan.matmul_precision}
            if plan.optimizer_state == "host":
                how["device"] = torch.device("cpu")
            elif plan.swapped_blocks or plan.precompute_modulation:
                how["placement"] = self._placement
        return load(setting.family, setting.source, name, **how)

    def _placement(self, denoiser: nn.Module) -> Placement:
        plan, arch = self.plan, self.setting.family.arch
        away = plan.swapped_of(len(arch.blocks_of(denoiser)))
        return Placement(denoiser, arch, streamed=away, hoist=plan.precompute_modulation, folder=self._folder)

    @property
    def _folder(self) -> Path | None:
        """Where weights go that stay on disk: a disk of that size, as /tmp may be memory."""
        return cache_root(self.setting.recipe) if self.plan.mmap_weights else None

    def _equipped(self) -> Engine:
        plan, family, device = self.plan, self.setting.family, self.setting.device
        denoiser = self.models[family.denoiser]
        return equip(
            denoiser,
            family.arch,
            device=device,
            checkpointed=plan.checkpointed_blocks,
            tail_skip=plan.tail_skip,
            keep_attention=plan.keep_attention,
            streamed=plan.swapped_of(len(family.arch.blocks_of(denoiser))),
            slots=plan.swap_buffers,
            mapped=plan.mmap_weights,
            folder=self._folder,
            hoist=plan.precompute_modulation,
            attention=plan.attention,
            compile=plan.compile,
        )

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
        for name in self.setting.trained:
            lora.forget(self.models[name])
        release(self.setting.device)
        self.plan = plan
        self.engine = self._equipped()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything trained, in a fixed order."""
        return [weight for name in self.setting.trained for weight in self._named(name).values()]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups with their learning rates: the denoiser's, then the text encoders'."""
        return [
            {"params": list(self._named(name).values()), "lr": rate(self.setting, name)}
            for name in self.setting.trained
        ]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Model -> trained tensors by name."""
        return {name: get_state(self._named(name)) for name in self.setting.trained}

    def restore(self, state: Mapping[str, dict[str, Tensor]]) -> None:
        """Put back what :meth:`state` gave."""
        for name in self.setting.trained:
            found = state.get(name)
            load_state(self._named(name), found if isinstance(found, dict) else {})
        self.publish()

    def publish(self, *_: Any) -> None:
        """Have the device compute with the trained weights as they are, where those are on the host."""
        if self.offload:
            self.offload.publish()

    def _named(self, name: str) -> dict[str, nn.Parameter]:
        """What is trained of a model, by the names of checkpoints: its masters, if they are on the host."""
        if self.offload:
            return self.offload.masters
        return (full if self.setting.full else lora).named(self.models[name])

    def adapters(self) -> dict[str, dict[str, Factors]]:
        """Component -> module -> factors, scale baked in: what is exported."""
        pairs = {name: lora.pairs(self.models[name]) for name in self.setting.trained}
        return {name: {layer: Factors(*pair) for layer, pair in held.items()} for name, held in pairs.items()}

    def losses(self, step: int) -> Iterator[Tensor]:
        """The losses of this process's micro-batches of a step; over all processes they sum to the mean.

        Where there is a prior, to the mean over the images plus the weighted mean over the prior.
        """
        places = self._places(step)
        micros = micro_batches(places, self.setting.views, self.plan.micro_batch)
        if self.offload:
            self.offload.forget()
        for micro in micros[distributed.rank() :: distributed.world()]:
            yield self._loss(step, micro)
            if self.offload:
                self.offload.gather()

    def _places(self, step: int) -> list[Place]:
        """The step's images, then its pictures of the prior, whose positions count down from -1."""
        places = self.order.step(step)
        if self.prior_order:
            first = len(self.setting.own)
            usual = self.prior_order.step(step)
            places += [Place(-1 - one.position, first + one.view_index) for one in usual]
        return places

    def _loss(self, step: int, micro: Sequence[Place]) -> Tensor:
        wish = self.setting.recipe
        values = self.store.batch([place.view_index for place in micro], self.setting.device)
        self.places[:] = [(wish.seed, step, place.position) for place in micro]
        own, usual = 1 / wish.train.batch, wish.prior.weight / wish.prior.batch
        shares = torch.tensor([own if place.position >= 0 else usual for place in micro])
        draw = KeyedRng(self.places)
        with self._arithmetic():
            loss = run_units(self.setting.cut.live, self.models, values, draw)["loss"]
        return (loss * to_device(shares, loss.device)).sum()

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """Autocast where weights are trained, in fp32; beside a LoRA there is nothing left to cast."""
        setting = self.setting
        if setting.dtype == torch.float32 or not setting.full:
            return nullcontext()
        # with its cache, autocast would hold a copy of every trained weight until the forward pass ends
        return torch.autocast(setting.device.type, setting.dtype, cache_enabled=False)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss over the held-out views at fixed quantiles of time and fixed noise."""
        setting = self.setting
        largest = self.plan.micro_batch
        self.dropping(on=False)
        total = 0.0
        for number in range(len(setting.held_out)):
            for start in range(0, len(QUANTILES), largest):
                some = QUANTILES[start : start + largest]
                values = self.store.batch([len(setting.views) + number] * len(some), setting.device)
                draw = Even([("held-out", number, str(quantile)) for quantile in some], some)
                with self._arithmetic():
                    total += float(run_units(setting.cut.live, self.models, values, draw)["loss"].sum())
        self.dropping(on=True)
        return total / (len(setting.held_out) * len(QUANTILES))

    def dropping(self, *, on: bool) -> None:
        """Switch the adapters' dropout."""
        for name in self.setting.trained:
            lora.dropping(self.models[name], on=on)

    @torch.no_grad()
    def paint(self, prompts: int) -> list[Image.Image]:
        """A picture for each of the run's prompts, by the family's stock sampler."""
        setting, wish = self.setting, self.setting.recipe.sample
        first = len(setting.views) + len(setting.held_out)
        texts = [self._text(first + number) for number in range(prompts + 1)]
        models = dict(self.models)
        if "vae" not in models:
            models["vae"] = self._load("vae")
        vae_tiling.tile(models["vae"], on=self.plan.decode_tiled)
        canvas = Canvas(
            width=wish.width or setting.resolution,
            height=wish.height or setting.resolution,
            steps=wish.steps,
            guidance=wish.guidance,
            seed=wish.seed,
            sampler=wished(setting.objective),
        )
        self.dropping(on=False)
        try:
            with self._arithmetic(), self._decoding(models["vae"]):
                return sampling.paint(setting.family, setting.source, models, texts[:-1], texts[-1], canvas)
        finally:
            self.dropping(on=True)

    @contextmanager
    def _decoding(self, vae: Any) -> Iterator[None]:
        """While entered, an autoencoder decodes in the run's precision, whatever its weights are kept in."""
        if self.setting.dtype == torch.float32:
            yield
            return
        vae.decode = torch.autocast(self.setting.device.type, self.setting.dtype)(vae.decode)
        try:
            yield
        finally:
            del vae.decode

    def _text(self, row: int) -> dict[str, Tensor]:
        """What the denoiser reads of a caption; computed by live units when a text encoder is trained."""
        setting = self.setting
        values: dict[str, Tensor] = self.store.batch([row], setting.device)
        known = text_values(setting)
        live = [unit for unit in setting.cut.live if set(unit.writes) <= known]
        with self._arithmetic():
            values = run_units(live, self.models, values)
        return {name: values[name] for name in setting.family.text}
