"""Training adapters: a LoRA that is part of the frozen model while another is trained, and of nothing else.

A distilled base loses its few steps when it is trained. A LoRA that undoes the distillation, added while
training alone, takes that loss upon itself: what is trained beside it works on the distilled base as that is.
So are Z-Image-Turbo and FLUX.1-schnell trained (ostris, ai-toolkit: ``assistant_lora_path``).

Its factors are kept apart from the weights (:class:`FrozenPair`), so that these may be stored in few bits,
swapped or precomputed as ever: merged, they would have to be stored again, and the adapter's small change
would be lost in the rounding.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadRecipe
from limner.files import sha256_file
from limner.lora import file
from limner.lora.adapters import WeightDelta, kind, to_lora
from limner.lora.factors import Factors, rename_for_model, unknown_layers, with_kernel
from limner.lora.metadata import without_path
from limner.nn.layers.adapter import Adapter, plain
from limner.nn.layers.quantized_linear import QuantizedLinear

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
"""The number of a block in the name of a layer."""


@dataclass(frozen=True, eq=False)
class TrainingAdapter:
    """A LoRA of the denoiser, read whole."""

    name: str
    """Without a path of this machine."""
    sha256: str
    """Of its file."""
    layers: Mapping[str, Factors]
    """Layer of the denoiser -> change."""

    @property
    def bytes(self) -> int:
        """Of the factors in half precision."""
        return sum(2 * (factors.down.numel() + factors.up.numel()) for factors in self.layers.values())

    def attach(self, denoiser: nn.Module, dtype: torch.dtype) -> None:
        """Put each pair beside its layer, beneath what is trained there.

        On meta, where a denoiser may stand for one with more blocks, a layer gets the largest pair of those
        that differ from it in the number of the block alone.
        """
        pairs = {name: (factors.down, factors.up) for name, factors in self.layers.items()}
        modules = dict(denoiser.named_modules())
        if next(denoiser.parameters()).is_meta:
            pairs = self._alike(modules)
        for name, (down, up) in pairs.items():
            module = modules[name]
            if isinstance(module, Adapter):
                module.base = FrozenPair(module.base, down.to(dtype), up.to(dtype))
            else:
                parent, _, attribute = name.rpartition(".")
                setattr(modules[parent], attribute, FrozenPair(module, down.to(dtype), up.to(dtype)))

    def _alike(self, modules: Mapping[str, nn.Module]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Layer -> factors without numbers, of the layers that are there.

        Those of another size are not meant: the blocks of a U-Net grow.
        """
        largest: dict[tuple[str, tuple[int, ...]], Factors] = {}
        for name, factors in self.layers.items():
            key = NUMBER.sub("*", name), (factors.up.shape[0], *factors.down.shape[1:])
            if key not in largest or factors.rank > largest[key].rank:
                largest[key] = factors
        pairs = {}
        for name, module in modules.items():
            layer = module.base if isinstance(module, Adapter) else module
            if not _layer(layer):  # its neighbour in a list may be a dropout
                continue
            factors = largest.get((NUMBER.sub("*", name), _shape(layer)))
            if factors:
                pairs[name] = factors.down.to("meta"), factors.up.to("meta")
        return pairs


def training_adapter(name: str, family: str, denoiser: str, model: nn.Module) -> TrainingAdapter:
    """The LoRA that ``train.adapter`` names, held against the denoiser.

    Args:
        name: A file, a folder or a hub id (:func:`limner.lora.file.find`).
        family: Of the base.
        denoiser: What the family calls its denoiser.
        model: The denoiser without weights, as it is.

    Raises:
        BadLora: It cannot be had or read.
        BadRecipe: It changes another model, or layers that are not there or have another shape.
    """
    path = file.weights_file(file.find(name))
    content = file.read(path, family)
    if others := sorted(set(content.components) - {denoiser}):
        raise BadRecipe(
            f"train.adapter: {name} changes {others[0]}, and an adapter is of the {denoiser} alone. Name "
            "another, or remove train.adapter."
        )
    layers = {layer: module for layer, module in model.named_modules() if _layer(module)}
    adapter = content.components.get(denoiser, {})
    if unknown := unknown_layers(adapter, layers):
        raise BadRecipe(
            f"train.adapter: {len(unknown)} of the {len(adapter)} layers that {name} changes are not in this "
            f"base, such as {unknown[0]}. Name an adapter of this base."
        )
    changes = rename_for_model(adapter, layers)
    factors = {layer: _factors(name, layer, change, layers[layer]) for layer, change in changes.items()}
    return TrainingAdapter(without_path(name), sha256_file(path), factors)


def pending_adapter(ranks: Mapping[str, int], model: nn.Module) -> TrainingAdapter:
    """The LoRA of a phase that has not been trained yet, without numbers: what a plan counts.

    Args:
        ranks: Layer -> rank, of what will be trained.
        model: The denoiser without weights, as it is.
    """
    layers: dict[str, Factors] = {}
    for name, rank in ranks.items():
        weight: torch.Tensor = model.get_submodule(name).weight  # pyright: ignore[reportAssignmentType]
        kernel = tuple(weight.shape[2:])
        down = torch.empty(rank, *weight.shape[1:], device="meta")
        up = torch.empty(weight.shape[0], rank, *(1 for _ in kernel), device="meta")
        layers[name] = Factors(down, up)
    return TrainingAdapter("the LoRA of the images before", "pending", layers)


def _layer(module: nn.Module) -> bool:
    """Whether a module may get a pair."""
    return isinstance(module, nn.Linear | QuantizedLinear) or plain(module)


def _shape(layer: nn.Module) -> tuple[int, ...]:
    return tuple(layer.shape if isinstance(layer, QuantizedLinear) else layer.weight.shape)  # pyright: ignore


def _factors(name: str, layer: str, change: WeightDelta, module: nn.Module) -> Factors:
    """A change as a pair that the layer can have.

    Raises:
        BadRecipe: It cannot.
    """
    if kind(change) == "DoRA":
        raise BadRecipe(
            f"train.adapter: {name} holds a DoRA, which depends on the base's weights. Make a LoRA of it: "
            "limner lora convert FILE --to diffusers --flatten 32 --base BASE"
        )
    convolution = isinstance(module, nn.Conv2d)
    weight: torch.Tensor = module.weight  # pyright: ignore[reportAssignmentType]
    if change.shape != (weight.shape[0], weight[0].numel()):
        raise BadRecipe(
            f"train.adapter: {name} changes {layer} as {change.shape[0]} x {change.shape[1]}, and this base "
            f"has {weight.shape[0]} x {weight[0].numel()}. Name an adapter of this base."
        )
    return with_kernel(to_lora(change), module.kernel_size if convolution else ())


class FrozenPair(nn.Module):
    """y = W x + U (D x), nothing of it trained. On convolutions D has the kernel and U is 1 x 1.

    Args:
        layer: A linear layer, stored in any way, or a convolution of one group.
        down: D, (rank, in[, height, width]); goes to where the layer is.
        up: U, (out, rank[, 1, 1]), the scale multiplied in.
    """

    def __init__(self, layer: nn.Module, down: Tensor, up: Tensor) -> None:
        """See the class."""
        super().__init__()
        self.layer = layer
        device = next(chain(layer.parameters(), layer.buffers())).device
        self.down = nn.Parameter(down.to(device), requires_grad=False)
        self.up = nn.Parameter(up.to(device), requires_grad=False)
        self.enabled = True
        convolution = isinstance(layer, nn.Conv2d)
        self.geometry: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation) if convolution else ()

    @property
    def weight(self) -> Tensor:
        """That of the layer: some models ask a layer for its dtype."""
        return self.layer.weight  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) of a linear layer, (B, C, H, W) -> (B, C', H', W') of a convolution."""
        y = self.layer(x)
        if not self.enabled:
            return y
        down, up = self.down.to(y.dtype), self.up.to(y.dtype)
        if self.geometry:
            return y + F.conv2d(F.conv2d(x.to(y.dtype), down, None, *self.geometry), up)
        inner = F.linear(x.to(y.dtype), down)
        return torch.addmm(y.reshape(-1, len(up)), inner.reshape(-1, len(down)), up.t()).view(y.shape)


def enable_pairs(model: nn.Module, *, enabled: bool) -> None:
    """Have the frozen pairs of a model compute, or leave its layers as they are."""
    for module in model.modules():
        if isinstance(module, FrozenPair):
            module.enabled = enabled
