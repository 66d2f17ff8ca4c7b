"""Weights read from a base's files onto a device, tensor by tensor: no second copy of a model ever exists."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from limner.nn.layers import w8a8
from limner.nn.layers.precision import Kind, Products
from limner.nn.layers.quantization import kernels_for, quantize
from limner.nn.layers.quantized_linear import QuantizedLinear, freeze
from limner.nn.memory.malloc import OFTEN, give_back
from limner.nn.memory.placement import Placement


def read(
    model: nn.Module,
    files: Sequence[Path],
    dtype: torch.dtype,
    device: torch.device,
    *,
    stored: Mapping[str, Kind],
    products: Products = "full",
    placement: Callable[[nn.Module], Placement] | None = None,
) -> list[str]:
    """Fill a model of diffusers whose parameters have no data, on ``device``.

    At any time one tensor of the files is there in full, and in the files' own precision; host memory holds
    mapped pages of them and no copy, but for what stays on the host.

    Args:
        model: What to fill; its parameters are on meta.
        files: Its shards.
        dtype: Of what is not stored in few bits. Whole numbers stay what they are.
        device: Where to.
        stored: Linear layer -> how its weight is stored in few bits.
        products: How those layers multiply.
        placement: Of a model whose layers are stored as they will be, what of it stays on the host instead.

    Returns:
        Names that the files lack.

    Raises:
        ValueError: A tensor has another shape, or is to be stored in few bits and is not finite.
        BadRecipe: The device cannot multiply in 8 bits.
        DiskFull: There is no room for what stays in files.
    """
    model.requires_grad_(requires_grad=False)
    for kind in sorted(set(stored.values())):
        if products == "8bit":
            w8a8.require(kind, device)
        names = [name for name, wanted in stored.items() if wanted == kind]
        freeze(model, names, kind, products=products, kernels=kernels_for(device))
    wanted, host = _wanted(model), torch.device("cpu")
    kept = placement(model) if placement else None
    if kept:
        kept.expect(layer for layer, _ in wanted.values())
    passed = 0
    for name, tensor in tensors(model, files):
        if name not in wanted:
            continue
        passed += tensor.nbytes
        if passed > OFTEN:
            passed = 0
            give_back()
        layer, shape = wanted.pop(name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and the config makes it {shape}")
        _put(layer, name, tensor.to(host if kept and layer in kept else device), dtype)
        if kept:
            kept.took(layer)
    give_back()
    return sorted(wanted)


def _wanted(model: nn.Module) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Names in the files -> the module that holds a tensor, and its shape."""
    layers = dict(model.named_modules())
    entries = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner, _, place = name.rpartition(".")
        layer = layers[owner]
        if isinstance(layer, QuantizedLinear) and place != "bias":
            entries[f"{owner}.weight"] = layer, layer.shape
        else:
            entries[name] = layer, tuple(tensor.shape)
    return entries


def _put(layer: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    place = name.rpartition(".")[2]
    if isinstance(layer, QuantizedLinear) and place == "weight":
        try:
            layer.hold(quantize(tensor, layer.kind))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return
    cast = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if place in layer._parameters:
        setattr(layer, place, nn.Parameter(cast.contiguous(), requires_grad=False))
    else:
        setattr(layer, place, cast.contiguous())


DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Of weights that are computed with; safetensors' words."""


def dtypes(model: Any, files: Sequence[Path]) -> dict[str, torch.dtype]:
    """Names, as the model has them -> the precision of its files. What is stored in few bits is left out."""
    entries: dict[str, torch.dtype] = {}
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name, key in _spelled(model, shard).items():
                kind = shard.get_slice(key).get_dtype()
                if kind in DTYPES:
                    entries[name] = DTYPES[kind]
    return entries


def tensors(model: Any, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names, as the model has them, and tensors of its files, each mapped from the disk."""
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name, key in _spelled(model, shard).items():
                yield name, shard.get_tensor(key)


def _spelled(model: Any, shard: Any) -> dict[str, str]:
    """Name as the model has it -> name in the file."""
    spelled: dict[str, str] = {name: name for name in shard.keys()}  # noqa: SIM118  it is no mapping
    model._fix_state_dict_keys_on_load(spelled)  # attention of bases from before diffusers renamed it
    return spelled


def shapes(files: Sequence[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names in files and the shapes of their tensors, from the headers alone."""
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118  it is no mapping
                yield name, tuple(shard.get_slice(name).get_shape())
