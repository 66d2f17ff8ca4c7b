"""A training step rehearsed without weights: the models of a run on the meta device, adapters attached."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limner.graph.split import Split
from limner.graph.unit import run as run_units
from limner.models.family import Family, Objective
from limner.models.loading import skeleton
from limner.models.source import Source
from limner.nn.arch import ArchSpec, matching
from limner.nn.layers import full, lora, quantized_linear
from limner.nn.layers.dropout import Places
from limner.nn.layers.precision import Products, stored_bytes
from limner.nn.memory.cast_inputs import cast_once
from limner.nn.memory.offload import halve
from limner.nn.rng import KeyedRng
from limner.planning.meta_inputs import batch
from limner.planning.plan import BITS, Attention, Compute, Kind, Weights
from limner.planning.trace import Machine, Trace, again, plain, trace
from limner.planning.tracker import GRANULE

DTYPES: dict[Compute, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What decides the memory of a run, of all that a recipe says."""

    size: tuple[int, int]
    """Width and height of the bucket with the most tokens, pixels."""
    full: bool = False
    """Whether every weight of the denoiser is trained, and no LoRA."""
    hosted: bool = False
    """Whether their masters are on the host, and gradients leave for there as they are made."""
    rank: int = 16
    conv_rank: int | None = None
    targets: str | Sequence[str] = "auto"
    text_encoders: Mapping[str, int] = field(default_factory=dict)
    """Text encoder that is trained -> its first trained layer."""
    dropout: float = 0.0
    compute: Compute = "bf16"
    weights: Weights | None = None
    """How the frozen layers in the blocks are stored while it is rehearsed; None: as computed with."""
    products: Products = "full"
    """How those layers multiply."""
    arithmetic: Literal["autocast", "cast"] = "cast"
    """How half precision is had: each operation casts what it reads, or the denoiser's first layers do, as in
    true runs (``nn.memory.cast_inputs``). Where all weights are trained, in fp32, it is always autocast."""
    attention: Attention = "auto"
    device: Kind = "cuda"
    objective: Objective = Objective()

    @property
    def casts(self) -> bool:
        """Whether the denoiser's inputs are cast, and nothing after."""
        return self.arithmetic == "cast" and not self.full


@dataclass(frozen=True)
class Seen:
    """What a rehearsal showed."""

    trace: Trace
    tails: Mapping[str, float]
    """Block -> FLOPs of its tails."""


def frozen_layers(denoiser: nn.Module, arch: ArchSpec) -> list[str]:
    """Names of the linear layers in the blocks, modulations left out: what is stored in few bits."""
    modulations = matching(denoiser, arch.modulations)
    blocks = tuple(f"{name}." for name in arch.blocks_of(denoiser))
    return [
        name
        for name, layer in denoiser.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(blocks) and name not in modulations
    ]


def machine_of(wish: Wish) -> Machine:
    """The device that a wish is for, imitated."""
    half = wish.compute != "fp32" and not wish.casts
    return Machine(
        attention=wish.attention,
        autocast=DTYPES[wish.compute] if half else None,
        kernels="cpu" if wish.device == "cpu" else "cuda",
        granule=1 if wish.device == "cpu" else GRANULE,
        products=wish.products,
    )


class Rehearsal:
    """The models of a training step, without weights.

    Raises:
        BadBase: A config means nothing.
        BadRecipe: A target or a text encoder is unknown.
    """

    def __init__(
        self, family: Family, source: Source, wish: Wish, cut: Split, machine: Machine | None = None
    ) -> None:
        """See the class."""
        self.family, self.wish, self.cut = family, wish, cut
        self.dtype = DTYPES[wish.compute]
        self.machine = machine or machine_of(wish)
        self.places: Places = []
        self.constants = 0
        """Bytes that the models have made in a first step and keep since, such as tables of positions."""
        self.idle: frozenset[int] = frozenset()
        """``id`` of every trained tensor that no gradient comes to, once a step was traced."""
        own = {family.denoiser: torch.float32} if wish.full else {}
        self.models = {
            name: skeleton(family, source, name, dtype=own.get(name, self.dtype)) for name in cut.loaded
        }
        self.denoiser = self.models[family.denoiser]
        if wish.weights == "int8" or wish.weights == "fp8" or wish.weights == "nf4":
            names = frozen_layers(self.denoiser, family.arch)
            quantized_linear.freeze(self.denoiser, names, wish.weights, products=wish.products)
        if wish.full:
            full.unfreeze(self.denoiser)
        if wish.hosted:
            halve(self.denoiser, self.dtype)
            for weight in full.trained(self.denoiser):
                weight.register_post_accumulate_grad_hook(_gone)
        adapted = {} if wish.full else {family.denoiser: 0, **wish.text_encoders}
        for name, since in adapted.items():
            self._attach(source, name, since)
        self.blocks = family.arch.blocks_of(self.denoiser)
        self.modulations = list(matching(self.denoiser, family.arch.modulations).values())

    def _attach(self, source: Source, name: str, since: int) -> None:
        family, wish = self.family, self.wish
        endings = family.endings(name, wish.targets)
        layers = family.layers.get(name, "")
        until = family.depth(source, name) if layers else None
        names = lora.matching(self.models[name], endings, layers=layers, since=since, until=until)
        ranks = lora.ranks(
            self.models[name], names, wish.rank, wish.conv_rank if name == family.denoiser else None
        )
        drop = wish.dropout
        here = {"dropout": drop, "seed": 0, "places": self.places}
        lora.attach(self.models[name], ranks, rank=wish.rank, alpha=wish.rank, **here)
        if wish.device == "cuda":
            lora.together(self.models[name])
        lora.dropping(self.models[name], on=True)

    def trace(self, one: Mapping[str, Tensor], images: int, *, checkpointed: int, state: int = 0) -> Seen:
        """A step of so many images, and no first one: what models make once is there already.

        Args:
            one: What live units read of one image (``blank.boundary``).
            images: At least 1.
            checkpointed: So many of the first blocks are.
            state: Bytes of the optimizer's state.
        """
        seen = self._trace(one, images, checkpointed, state)
        if seen.trace.left:
            self.constants += seen.trace.left
            seen = self._trace(one, images, checkpointed, state)
        self.idle = seen.trace.idle
        return seen

    def _trace(self, one: Mapping[str, Tensor], images: int, checkpointed: int, state: int) -> Seen:
        tails = dict.fromkeys(self.blocks, 0.0)

        def step() -> Tensor:
            self.places[:] = [(0, 0, number) for number in range(images)]
            draw = KeyedRng(self.places)
            return run_units(self.cut.live, self.models, batch(one, images), draw)["loss"].sum()

        with ExitStack() as stack:
            stack.enter_context(again(list(self.blocks.values())[:checkpointed]))
            for name, layer in matching(self.denoiser, self.family.arch.tails).items():
                block = next(each for each in self.blocks if name.startswith(f"{each}."))
                handle = layer.register_forward_hook(partial(_product, tails, block))
                stack.callback(handle.remove)
            if self.wish.casts:
                stack.enter_context(cast_once(self.denoiser, self.family.arch, self.dtype))
            seen = trace(
                step,
                self.models,
                self.blocks,
                arch=self.family.arch,
                state=state,
                constants=self.constants,
                machine=self.machine,
            )
        return Seen(seen, tails)

    def weigh(self, modules: Sequence[nn.Module]) -> dict[str, Any]:
        """Bytes of the frozen weights in modules, by how they are treated, and what learns in them."""
        modulating = {id(each) for layer in self.modulations for each in layer.parameters()}
        linears = [
            layer
            for module in modules
            for layer in module.modules()
            if isinstance(layer, nn.Linear) and not layer.weight.requires_grad
            if id(layer.weight) not in modulating
        ]
        shapes = [(layer.out_features, layer.in_features) for layer in linears]
        every = [each for module in modules for each in (*module.parameters(), *module.buffers())]
        every += [each for module in modules for part in module.modules() for each in plain(part)]
        frozen = {id(each): each for each in every if not each.requires_grad}
        modulation = sum(_bytes(each) for key, each in frozen.items() if key in modulating)
        stored = sum(_bytes(layer.weight) for layer in linears)
        return {
            "stored": {kind: sum(stored_bytes(kind, *shape) for shape in shapes) for kind in BITS},
            "other": sum(map(_bytes, frozen.values())) - modulation - stored,
            "modulation": modulation,
            "widest": max((rows * columns for rows, columns in shapes), default=0) * self.dtype.itemsize,
            "trained": sum(
                each.numel() for each in every if each.requires_grad and id(each) not in self.idle
            ),
        }

    def weigh_outside(self) -> dict[str, Any]:
        """The same of everything outside the blocks. None of it is ever quantised."""
        inside = [self.weigh([block]) for block in self.blocks.values()]
        every = self.weigh(list(self.models.values()))
        left = {
            name: every[name] - sum(each[name] for each in inside)
            for name in ("other", "modulation", "trained")
        }
        linear = every["stored"][self.wish.compute] - sum(
            each["stored"][self.wish.compute] for each in inside
        )
        return left | {"other": left["other"] + linear, "stored": dict.fromkeys(BITS, 0), "widest": 0}


def _gone(weight: Tensor) -> None:
    weight.grad = None


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _product(flops: dict[str, float], block: str, _: nn.Module, given: Any, out: Tensor) -> None:
    """Count what a linear layer computes, once: a recomputation is no second time."""
    if torch._C._current_graph_task_id() == -1:
        flops[block] += 2.0 * given[0].numel() * out.shape[-1]
