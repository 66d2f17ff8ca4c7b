"""Limner's side of a cell: its own loading, adapters, engine, units and loop, over random numbers.

``python -m gpu.ours JSON``. The denoiser has its true shape and random weights, drawn on the device tensor by
tensor and stored as the plan says, so that the whole in full precision never exists. What frozen units would
have cached is random numbers of the true shapes.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

import diffusers
import torch
from torch import Tensor, nn

from gpu.cells import RANK, TARGETS, WARM_UP
from gpu.clock import from_environment
from gpu.fake import described, fill, generator, put
from limner.assembly.assemble import DTYPES, ModelSpec
from limner.assembly.trainable import LoRA
from limner.graph.unit import Split
from limner.graph.unit import run as run_units
from limner.models.family import Family
from limner.models.loading import hollow, hush
from limner.models.source import Source
from limner.nn.arch import matching
from limner.nn.layers import lora
from limner.nn.layers.quantization import kernels_for
from limner.nn.layers.quantized_linear import freeze
from limner.nn.loop import Fit, fit
from limner.nn.memory.engine import Engine, equip
from limner.nn.memory.offload import cast_once
from limner.nn.memory.plan import Plan, QuantKind, from_json
from limner.nn.optim import optimizer
from limner.nn.rng import KeyedRng
from limner.planning.memory import CODES
from limner.planning.meta_inputs import boundary


def drawn(family: Family, source: Source, plan: Plan, device: torch.device) -> nn.Module:
    """The denoiser with random weights, stored as a plan says; what it streams or hoists on the host."""
    cls = getattr(diffusers, family.library(family.denoiser)[1])
    model = hollow(cls, source.config(family.denoiser), DTYPES[plan.compute])
    blocks = list(family.arch.blocks_of(model))
    swaps = {blocks[number] for number in plan.swapped_of(len(blocks))}
    modulation_layers = set(matching(model, family.arch.modulations)) if plan.precompute_modulation else set()
    code_modules = _coded(model, family, blocks) if plan.weights in CODES else set()
    draw = generator(device)
    for name, module in list(model.named_modules()):
        host = name in modulation_layers or any(f"{name}.".startswith(f"{block}.") for block in swaps)
        home = torch.device("cpu") if host else device
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, empty in tensors:
            if empty.is_meta:
                whole = f"{name}.{key}" if name else key
                filling = fill(torch.empty_like(empty, device=device), whole, draw)
                put(model, whole, filling if name in code_modules else filling.to(home))
        if name in code_modules:
            freeze(model, [name], cast("QuantKind", plan.weights), kernels=kernels_for(device))
            model.get_submodule(name).to(home)
    return model.requires_grad_(requires_grad=False).eval()


def _coded(model: nn.Module, family: Family, blocks: list[str]) -> set[str]:
    """Linear layers inside blocks, modulations left out: what is stored in few bits."""
    modulations = matching(model, family.arch.modulations)
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in modulations
        if any(name.startswith(f"{block}.") for block in blocks)
    }


def adapted(
    family: Family, model: nn.Module, base: str, device: torch.device, plan: Plan
) -> list[nn.Parameter]:
    """A LoRA on the denoiser whose factors are both not zero, on the device. Its parameters.

    In half precision the model is cast once, where it begins, as in a run.
    """
    names = lora.matching(model, family.endings(family.denoiser, TARGETS[base]))
    lora.attach(model, names, rank=RANK, alpha=RANK, dropout=0.0, seed=0)
    if device.type == "cuda":
        lora.together(model)
    factors = lora.trained(model)
    for number, factor in enumerate(factors):
        factor_values = torch.randn(factor.shape, generator=generator("cpu", number)) * 0.02
        factor.data = factor_values.to(device)
    if plan.compute != "fp32":
        cast_once(model, family.arch, DTYPES[plan.compute])
    return factors


def equipped(family: Family, model: nn.Module, plan: Plan, device: torch.device) -> Engine:
    """The plan put on the model."""
    return equip(model, family.arch, plan, device=device)


def cut_of(family: Family, source: Source) -> Split:
    """The units of a run that trains the denoiser."""
    return ModelSpec(family=family, source=source, trainable=LoRA()).cut


def values(
    family: Family, source: Source, size: tuple[int, int], images: int, plan: Plan, device: torch.device
) -> dict[str, Tensor]:
    """Random numbers in place of what the cache would hold, for so many images."""
    spec = ModelSpec(family=family, source=source, trainable=LoRA(), compute=plan.compute)
    shapes = boundary(spec, size)
    return {name: _random(name, part_shape, size, images, device) for name, part_shape in shapes.items()}


def _random(name: str, like: Tensor, size: tuple[int, int], images: int, device: torch.device) -> Tensor:
    shape = (images, *like.shape[1:])
    if like.dtype == torch.bool:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if name == "frame":
        width, height = size
        return torch.tensor([[height, width, 0, 0, height, width]] * images, device=device)
    if like.dtype.is_floating_point:
        draw = generator(device, len(name))
        return torch.randn(shape, generator=draw, device=device, dtype=like.dtype)
    return torch.ones(shape, dtype=like.dtype, device=device)


def losses(
    cut: Split, models: Mapping[str, Any], inputs: Mapping[str, Tensor], plan: Plan, step: int
) -> Iterator[Tensor]:
    """The losses of a step's micro-batches; they sum to the mean over its images."""
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, plan.micro_batch):
        batch_values = {name: value[start : start + plan.micro_batch] for name, value in inputs.items()}
        count = len(next(iter(batch_values.values())))
        draw = KeyedRng([(0, step, start + number) for number in range(count)])
        yield run_units(cut.live, models, batch_values, draw)["loss"].sum() / rows


def main() -> None:
    """Steps of a cell, until the clock has seen enough."""
    clock = from_environment()
    hush()
    settings = json.loads(sys.argv[1])
    plan = from_json(settings["plan"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family, source = described(settings["base"], tiny=settings["tiny"])
    model = drawn(family, source, plan, device)
    parameters = adapted(family, model, settings["base"], device, plan)
    equipped(family, model, plan, device)
    cut = cut_of(family, source)
    inputs = [
        values(family, source, tuple(size), settings["batch"], plan, device) for size in settings["sizes"]
    ]
    moving = optimizer(
        "adamw8bit" if plan.optimizer_state == "8bit" else "adamw", [{"params": parameters, "lr": 1e-4}]
    )
    clock.facts["trained"] = sum(part_shape.numel() for part_shape in parameters)
    setting = Fit(parameters=parameters, optimizer=moving, rate=lambda step: 1.0, clip=1.0)
    models = {family.denoiser: model}
    for _ in fit(
        setting,
        lambda step: losses(cut, models, inputs[step % len(inputs)], plan, step),
        start=0,
        steps=WARM_UP + settings["steps"] + 1,
    ):
        pass


if __name__ == "__main__":
    main()
