"""A training step rehearsed without weights: the models of a run on the meta device, adapters attached."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limner.assembly.assemble import META, ModelSpec, assemble
from limner.graph.unit import run as run_units
from limner.nn.arch import hoistable, matching
from limner.nn.memory.plan import BITS, Attention, Plan, Products, Weights, stored_bytes
from limner.nn.rng import KeyedRng
from limner.planning.meta_inputs import batch
from limner.planning.trace import Machine, Trace, again, plain, trace
from limner.planning.tracker import GRANULE


@dataclass(frozen=True, kw_only=True)
class TraceSpec:
    """How a step is traced: what of a run's memory neither its models nor its plan decide."""

    size: tuple[int, int]
    """Width and height of the bucket with the most tokens, pixels."""
    on_host: bool = False
    """Whether masters are on the host, and gradients leave for there as they are made."""
    weights: Weights | None = None
    """How the frozen layers in the blocks are stored while it is traced; None: as computed with."""
    matmul_precision: Products = "full"
    """How those layers multiply."""
    arithmetic: Literal["autocast", "cast"] = "cast"
    """How half precision is had: each operation casts what it reads, or the denoiser's first layers do, as in
    true runs (``nn.memory.offload``). Where all weights are trained, in fp32, it is always autocast."""
    attention: Attention = "auto"


@dataclass(frozen=True)
class DryRunResult:
    """What a rehearsal showed."""

    trace: Trace
    tails: Mapping[str, float]
    """Block -> FLOPs of its tails."""


def machine_of(spec: ModelSpec, trace_spec: TraceSpec) -> Machine:
    """The device that a step is traced for, imitated."""
    half = spec.compute != "fp32" and not (spec.casts_inputs and trace_spec.arithmetic == "cast")
    return Machine(
        attention=trace_spec.attention,
        autocast=spec.dtype if half else None,
        kernels="cpu" if spec.kind == "cpu" else "cuda",
        granule=1 if spec.kind == "cpu" else GRANULE,
        matmul_precision=trace_spec.matmul_precision,
    )


class DryRun:
    """The models of a training step, without weights.

    Args:
        spec: The base, and what of it is trained.
        how: The size of the images, and what else is not the models'.
        machine: What is imitated, if not the device of the spec.

    Raises:
        BadBase: A config means nothing.
        BadRecipe: A target or a text encoder is unknown.
    """

    def __init__(self, spec: ModelSpec, trace_spec: TraceSpec, machine: Machine | None = None) -> None:
        """See the class."""
        self.spec, self.trace_spec, self.family = spec, trace_spec, spec.family
        self.machine = machine or machine_of(spec, trace_spec)
        self.constants = 0
        """Bytes that the models have made in a first step and keep since, such as tables of positions."""
        self.idle: frozenset[int] = frozenset()
        """``id`` of every trained tensor that no gradient comes to, once a step was traced."""
        plan = Plan(
            compute=spec.compute,
            weights=trace_spec.weights or spec.compute,
            matmul_precision=trace_spec.matmul_precision,
            optimizer_state="host" if trace_spec.on_host else "fp32",
        )
        assembly = assemble(spec, plan, META, cast_inputs=trace_spec.arithmetic == "cast")
        self.models, self.sample_keys, self.denoiser = (
            assembly.models,
            assembly.sample_keys,
            assembly.denoiser,
        )
        for name in spec.first_layers:
            spec.trainable.set_dropout(self.models[name], enabled=True)
        self.blocks = self.family.arch.blocks_of(self.denoiser)
        self.modulations = list(matching(self.denoiser, self.family.arch.modulations).values())
        self.hoistable = list(hoistable(self.denoiser, self.family.arch).values())

    def trace(
        self, inputs: Mapping[str, Tensor], images: int, *, checkpointed_blocks: int, state: int = 0
    ) -> DryRunResult:
        """A step of so many images, and no first one: what models make once is there already.

        Args:
            inputs: What live units read of one image (``meta_inputs.boundary``).
            images: At least 1.
            checkpointed_blocks: So many of the first blocks are.
            state: Bytes of the optimizer's state.
        """
        result = self._trace(inputs, images, checkpointed_blocks, state)
        if result.trace.leftover:
            self.constants += result.trace.leftover
            result = self._trace(inputs, images, checkpointed_blocks, state)
        self.idle = result.trace.idle
        return result

    def _trace(
        self, inputs: Mapping[str, Tensor], images: int, checkpointed_blocks: int, state: int
    ) -> DryRunResult:
        tails = dict.fromkeys(self.blocks, 0.0)

        def step() -> Tensor:
            self.sample_keys[:] = [(0, 0, number) for number in range(images)]
            draw = KeyedRng(self.sample_keys)
            return run_units(self.spec.cut.live, self.models, batch(inputs, images), draw)["loss"].sum()

        with ExitStack() as stack:
            stack.enter_context(again(list(self.blocks.values())[:checkpointed_blocks]))
            for name, layer in matching(self.denoiser, self.family.arch.tails).items():
                block = next(key for key in self.blocks if name.startswith(f"{key}."))
                handle = layer.register_forward_hook(partial(_product, tails, block))
                stack.callback(handle.remove)
            step_trace = trace(
                step,
                self.models,
                self.blocks,
                arch=self.family.arch,
                state=state,
                constants=self.constants,
                machine=self.machine,
            )
        return DryRunResult(step_trace, tails)

    def weigh(self, modules: Sequence[nn.Module]) -> dict[str, Any]:
        """Bytes of the frozen weights in modules, by how they are treated, and what learns in them."""
        modulating, away = (
            {id(parameter) for layer in layers for parameter in layer.parameters()}
            for layers in (self.modulations, self.hoistable)
        )
        linears = [
            layer
            for module in modules
            for layer in module.modules()
            if isinstance(layer, nn.Linear) and not layer.weight.requires_grad
            if id(layer.weight) not in modulating
        ]
        shapes = [(layer.out_features, layer.in_features) for layer in linears]
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        tensors += [tensor for module in modules for part in module.modules() for tensor in plain(part)]
        frozen = {id(tensor): tensor for tensor in tensors if not tensor.requires_grad}
        modulation = sum(_bytes(tensor) for key, tensor in frozen.items() if key in away)
        linear_bytes = sum(_bytes(layer.weight) for layer in linears)
        return {
            "weight_bytes": {kind: sum(stored_bytes(kind, *shape) for shape in shapes) for kind in BITS},
            "other": sum(map(_bytes, frozen.values())) - modulation - linear_bytes,
            "modulation": modulation,
            "widest": max((rows * columns for rows, columns in shapes), default=0) * self.spec.dtype.itemsize,
            "trained": sum(
                tensor.numel() for tensor in tensors if tensor.requires_grad and id(tensor) not in self.idle
            ),
        }

    def weigh_outside(self) -> dict[str, Any]:
        """The same of everything outside the blocks. None of it is ever quantised."""
        block_bytes = [self.weigh([block]) for block in self.blocks.values()]
        total = self.weigh(list(self.models.values()))
        rest = {
            name: total[name] - sum(entry[name] for entry in block_bytes)
            for name in ("other", "modulation", "trained")
        }
        linear = total["weight_bytes"][self.spec.compute] - sum(
            entry["weight_bytes"][self.spec.compute] for entry in block_bytes
        )
        return rest | {"other": rest["other"] + linear, "weight_bytes": dict.fromkeys(BITS, 0), "widest": 0}


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _product(flops: dict[str, float], block: str, _: nn.Module, inputs: Any, out: Tensor) -> None:
    """Count what a linear layer computes, once: a recomputation is no second time."""
    if torch._C._current_graph_task_id() == -1:
        flops[block] += 2.0 * inputs[0].numel() * out.shape[-1]
