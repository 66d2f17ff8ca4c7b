"""A training step rehearsed without weights: the models of a run on the meta device, adapters attached."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limner.assembly.assemble import META, assemble
from limner.assembly.spec import ModelSpec
from limner.graph.unit import run as run_units
from limner.nn.arch import matching
from limner.nn.layers.precision import Products, stored_bytes
from limner.nn.memory.plan import BITS, Attention, Plan, Weights
from limner.nn.rng import KeyedRng
from limner.planning.meta_inputs import batch
from limner.planning.trace import Machine, Trace, again, plain, trace
from limner.planning.tracker import GRANULE


@dataclass(frozen=True, kw_only=True)
class TraceSpec:
    """How a step is traced: what of a run's memory neither its models nor its plan decide."""

    size: tuple[int, int]
    """Width and height of the bucket with the most tokens, pixels."""
    hosted: bool = False
    """Whether masters are on the host, and gradients leave for there as they are made."""
    weights: Weights | None = None
    """How the frozen layers in the blocks are stored while it is traced; None: as computed with."""
    products: Products = "full"
    """How those layers multiply."""
    arithmetic: Literal["autocast", "cast"] = "cast"
    """How half precision is had: each operation casts what it reads, or the denoiser's first layers do, as in
    true runs (``nn.memory.cast_inputs``). Where all weights are trained, in fp32, it is always autocast."""
    attention: Attention = "auto"


@dataclass(frozen=True)
class Seen:
    """What a rehearsal showed."""

    trace: Trace
    tails: Mapping[str, float]
    """Block -> FLOPs of its tails."""


def machine_of(spec: ModelSpec, how: TraceSpec) -> Machine:
    """The device that a step is traced for, imitated."""
    half = spec.compute != "fp32" and not (spec.casts_inputs and how.arithmetic == "cast")
    return Machine(
        attention=how.attention,
        autocast=spec.dtype if half else None,
        kernels="cpu" if spec.kind == "cpu" else "cuda",
        granule=1 if spec.kind == "cpu" else GRANULE,
        products=how.products,
    )


class Rehearsal:
    """The models of a training step, without weights.

    Args:
        spec: The base, and what of it is trained.
        how: The size of the images, and what else is not the models'.
        machine: What is imitated, if not the device of the spec.

    Raises:
        BadBase: A config means nothing.
        BadRecipe: A target or a text encoder is unknown.
    """

    def __init__(self, spec: ModelSpec, how: TraceSpec, machine: Machine | None = None) -> None:
        """See the class."""
        self.spec, self.how, self.family = spec, how, spec.family
        self.machine = machine or machine_of(spec, how)
        self.constants = 0
        """Bytes that the models have made in a first step and keep since, such as tables of positions."""
        self.idle: frozenset[int] = frozenset()
        """``id`` of every trained tensor that no gradient comes to, once a step was traced."""
        plan = Plan(
            compute=spec.compute,
            weights=how.weights or spec.compute,
            matmul_precision=how.products,
            optimizer_state="host" if how.hosted else "fp32",
        )
        assembled = assemble(spec, plan, META, cast_inputs=how.arithmetic == "cast")
        self.models, self.places, self.denoiser = assembled.models, assembled.sample_keys, assembled.denoiser
        for name in spec.first_layers:
            spec.trainable.set_dropout(self.models[name], on=True)
        self.blocks = self.family.arch.blocks_of(self.denoiser)
        self.modulations = list(matching(self.denoiser, self.family.arch.modulations).values())

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
            return run_units(self.spec.cut.live, self.models, batch(one, images), draw)["loss"].sum()

        with ExitStack() as stack:
            stack.enter_context(again(list(self.blocks.values())[:checkpointed]))
            for name, layer in matching(self.denoiser, self.family.arch.tails).items():
                block = next(each for each in self.blocks if name.startswith(f"{each}."))
                handle = layer.register_forward_hook(partial(_product, tails, block))
                stack.callback(handle.remove)
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
        modulating = {id(parameter) for layer in self.modulations for parameter in layer.parameters()}
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
            "widest": max((rows * columns for rows, columns in shapes), default=0) * self.spec.dtype.itemsize,
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
        linear = every["stored"][self.spec.compute] - sum(
            each["stored"][self.spec.compute] for each in inside
        )
        return left | {"other": left["other"] + linear, "stored": dict.fromkeys(BITS, 0), "widest": 0}


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _product(flops: dict[str, float], block: str, _: nn.Module, given: Any, out: Tensor) -> None:
    """Count what a linear layer computes, once: a recomputation is no second time."""
    if torch._C._current_graph_task_id() == -1:
        flops[block] += 2.0 * given[0].numel() * out.shape[-1]
