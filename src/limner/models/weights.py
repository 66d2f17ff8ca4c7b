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
    layer_kinds: Mapping[str, Kind],
    matmul_precision: Products = "full",
    placement: Callable[[nn.Module], Placement] | None = None,
) -> list[str]:
    """Fill a model of diffusers whose parameters have no data, on ``device``.

    At any time one tensor of the files is there in full, and in the files' own precision; host memory holds
    mapped pages of them and no copy, but for what stays on the host.

    Args:
        model: What to fill; its parameters are on meta.
        files: Its shards.
        dtype: Of what is neither stored in few bits nor kept in fp32. Whole numbers stay what they are.
        device: Where to.
        layer_kinds: Linear layer -> how its weight is stored in few bits.
        matmul_precision: How those layers multiply.
        placement: Of a model whose layers are stored as they will be, what of it stays on the host instead.

    Returns:
        Names that the files lack.

    Raises:
        ValueError: A tensor has another shape, or is to be stored in few bits and is not finite.
        BadRecipe: The device cannot multiply in 8 bits.
        DiskFull: There is no room for what stays in files.
    """
    model.requires_grad_(requires_grad=False)
    for kind in sorted(set(layer_kinds.values())):
        if matmul_precision == "8bit":
            w8a8.require(kind, device)
        names = [name for name, layer_kind in layer_kinds.items() if layer_kind == kind]
        freeze(model, names, kind, products=matmul_precision, kernels=kernels_for(device))
    targets, host = _targets(model), torch.device("cpu")
    host_layers = placement(model) if placement else None
    if host_layers:
        host_layers.expect(layer for layer, _ in targets.values())
    byte_count = 0
    for name, tensor in tensors(model, files):
        if name not in targets:
            continue
        byte_count += tensor.nbytes
        if byte_count > OFTEN:
            byte_count = 0
            give_back()
        layer, shape = targets.pop(name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and the config makes it {shape}")
        kind = torch.float32 if kept_in_fp32(model, name) else dtype
        _put(layer, name, tensor.to(host if host_layers and layer in host_layers else device), kind)
        if host_layers:
            host_layers.took(layer)
    give_back()
    return sorted(targets)


def kept_in_fp32(model: nn.Module, name: str) -> bool:
    """Whether a weight stays in fp32 in a model of lower precision: the rule of diffusers' own loader."""
    modules = getattr(model, "_keep_in_fp32_modules", None) or ()
    return not set(name.split(".")).isdisjoint(modules)


def _targets(model: nn.Module) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Names in the files -> the module that holds a tensor, and its shape."""
    layers = dict(model.named_modules())
    entries = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner, _, leaf = name.rpartition(".")
        layer = layers[owner]
        if isinstance(layer, QuantizedLinear) and leaf != "bias":
            entries[f"{owner}.weight"] = layer, layer.shape
        else:
            entries[name] = layer, tuple(tensor.shape)
    return entries


def _put(layer: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    leaf = name.rpartition(".")[2]
    if isinstance(layer, QuantizedLinear) and leaf == "weight":
        try:
            layer.hold(quantize(tensor, layer.kind))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return
    data = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if leaf in layer._parameters:
        setattr(layer, leaf, nn.Parameter(data.contiguous(), requires_grad=False))
    else:
        setattr(layer, leaf, data.contiguous())


DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Of weights that are computed with; safetensors' words."""


def dtypes(model: Any, files: Sequence[Path]) -> dict[str, torch.dtype]:
    """Names, as the model has them -> the precision of its files. What is stored in few bits is left out."""
    entries: dict[str, torch.dtype] = {}
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name, key in _file_names(model, shard).items():
                kind = shard.get_slice(key).get_dtype()
                if kind in DTYPES:
                    entries[name] = DTYPES[kind]
    return entries


def tensors(model: Any, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names, as the model has them, and tensors of its files, each mapped from the disk."""
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name, key in _file_names(model, shard).items():
                yield name, shard.get_tensor(key)


def _file_names(model: Any, shard: Any) -> dict[str, str]:
    """Name as the model has it -> name in the file."""
    file_names: dict[str, str] = {name: name for name in shard.keys()}  # noqa: SIM118  it is no mapping
    model._fix_state_dict_keys_on_load(file_names)  # attention of bases from before diffusers renamed it
    return file_names


def shapes(files: Sequence[Path]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names in files and the shapes of their tensors, from the headers alone."""
    for path in files:
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118  it is no mapping
                yield name, tuple(shard.get_slice(name).get_shape())
