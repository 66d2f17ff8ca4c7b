"""Peak memory of a true training step on the CPU, by an independent witness: events of torch's profiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.assembly.assemble import ModelSpec
from limner.graph.unit import run as run_units
from limner.models.loading import load
from limner.nn import arch
from limner.nn.layers import lora, quantized_linear
from limner.nn.layers.kinds import kind_of
from limner.nn.layers.quantized_linear import storable
from limner.nn.memory.checkpointing import Checkpoint
from limner.nn.memory.offload import cast_once
from limner.nn.memory.plan import Weights
from limner.nn.optim import optimizer
from limner.nn.rng import KeyedRng
from limner.planning.dry_run import TraceSpec
from limner.planning.kernels import imitated
from limner.planning.meta_inputs import boundary
from limner.planning.trace import plain

CPU = torch.device("cpu")
CONVOLUTION = F.conv2d
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})


class Real:
    """A base's training step with weights, adapters and AdamW.

    Kernels of CUDA are imitated here as well, so that what is kept is the same: they really allocate.
    """

    def __init__(self, spec: ModelSpec, how: TraceSpec, weights: Weights | None = None) -> None:
        family, source, config = spec.family, spec.source, getattr(spec.trainable, "config", None)
        self.family, self.cut, dtype = family, spec.cut, spec.dtype
        self.one = boundary(spec, how.size)
        self.models: dict[str, Any] = {
            name: load(family, source, name, dtype=dtype, device=CPU) for name in self.cut.loaded
        }
        self.denoiser = self.models[family.denoiser]
        self.blocks = family.arch.blocks_of(self.denoiser)
        if weights in ("int8", "fp8", "nf4"):
            names = storable(self.denoiser, family.arch)
            quantized_linear.freeze(self.denoiser, names, weights, products=how.matmul_precision)
        if config is None:
            arch.unfreeze(self.denoiser)
        for name in () if config is None else self.models:
            names = lora.matching(self.models[name], family.endings(name, config.targets))
            kind = kind_of(config.kind, factor=config.factor, full_matrix=config.full_matrix)
            sizes = {"rank": config.rank, "alpha": config.rank, "dropout": 0.0, "seed": 0, "kind": kind}
            lora.attach(self.models[name], names, **sizes)
            if spec.kind == "cuda":
                lora.together(self.models[name])
        trained = arch.trained if config is None else lora.trained
        self.trained = [each for name in self.models for each in trained(self.models[name])]
        if dtype != torch.float32 and config is not None:
            cast_once(self.denoiser, family.arch, dtype)
        self.unseen = 0
        """Bytes that models keep since their first step where no attribute leads to them."""
        self.scratch = True
        self.optimizer = optimizer("adamw", [{"params": self.trained, "lr": 1e-4}])

    def peak(self, images: int, checkpointed: int, *, scratch: bool = True) -> int:
        """Most bytes alive in the second step, all that the first has left behind included.

        Args:
            images: In a step.
            checkpointed: So many blocks are.
            scratch: Count what a product of matrices takes and gives back itself, as oneDNN's do in bf16.
        """
        self.scratch = scratch
        few = _checkpointed(list(self.blocks.values())[:checkpointed])
        with few, imitated(device="cpu"), mock.patch.object(F, "conv2d", _convolution):
            before = self._held()
            left, _ = self._watched(images)
            held = self._held()
            self.unseen += left - (held - before)
            _, most = self._watched(images)
        return held + self.unseen + most

    def state(self) -> int:
        """Bytes of the optimizer's state, after a step."""
        return sum(each.nbytes for state in self.optimizer.state.values() for each in state.values())

    def _watched(self, images: int) -> tuple[int, int]:
        """A step: bytes that it leaves behind, and the most that were alive beyond those before it."""
        with torch.autograd.profiler.profile(profile_memory=True) as profiler:
            self._step(images)
        events = sorted(profiler.kineto_results.events(), key=lambda event: event.start_ns())
        sizes = [(each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]"]
        if not self.scratch:
            spans = (
                (each.start_ns(), each.start_ns() + each.duration_ns())
                for each in events
                if each.name() in PRODUCTS
            )
            sizes = _lasting(sizes, list(spans))
        alive = most = 0
        for _, size in sizes:
            alive += size
            most = max(most, alive)
        return alive, most

    def _step(self, images: int) -> None:
        values = {name: _numbers(value, images) for name, value in self.one.items()}
        draw = KeyedRng([(0, 0, number) for number in range(images)])
        loss = run_units(self.cut.live, self.models, values, draw)["loss"].sum()
        del values
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _held(self) -> int:
        every: list[Tensor] = []
        for model in self.models.values():
            every += [*model.parameters(), *model.buffers()]
            every += [tensor for module in model.modules() for tensor in plain(module)]
        every += [each for state in self.optimizer.state.values() for each in state.values()]
        return sum({s.data_ptr(): s.nbytes() for s in (each.untyped_storage() for each in every)}.values())


def _lasting(sizes: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(time, bytes) of what outlives the product that made it."""
    kept: list[tuple[int, int]] = []
    place = 0
    for start, end in spans:
        while place < len(sizes) and sizes[place][0] < start:
            kept.append(sizes[place])
            place += 1
        mine: list[tuple[int, int]] = []
        while place < len(sizes) and sizes[place][0] <= end:
            when, size = sizes[place]
            made = next((each for each in reversed(mine) if each[1] == -size), None)
            if size < 0 and made:
                mine.remove(made)
            else:
                mine.append((when, size))
            place += 1
        kept += mine
    return kept + sizes[place:]


def _numbers(value: Tensor, images: int) -> Tensor:
    shape = (images, *value.shape[1:])
    if value.dtype == torch.bool:
        return torch.ones(shape, dtype=torch.bool)
    return torch.ones(shape, dtype=value.dtype)


@contextmanager
def _checkpointed(blocks: list[nn.Module]) -> Iterator[None]:
    for block in blocks:
        block.forward = Checkpoint(block.forward)
    yield
    for block in blocks:
        del block.forward


class _Convolution(torch.autograd.Function):
    """As cuDNN's implicit products have it: no columns, no second layout, beside input and output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        shape = CONVOLUTION(x.to("meta"), weight.to("meta"), None, *how).shape
        return x.new_zeros(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        needed = (
            each if need else None for each, need in zip((x, weight), ctx.needs_input_grad, strict=False)
        )
        return *(None if each is None else torch.zeros_like(each) for each in needed), *[None] * 5


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any) -> Tensor:
    return _Convolution.apply(x, weight, bias, *how)  # pyright: ignore[reportReturnType]
