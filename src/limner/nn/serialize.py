"""Nested values with tensors in them, taken apart for safetensors + JSON and put together again, to the bit.

Optimizers keep tensors, numbers and tuples in dictionaries with integer keys. Pickle would hold all that and
run code when read; this holds it as named tensors and a skeleton of plain JSON.
"""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from limner.errors import BadCheckpoint

Skeleton = Any
"""JSON: numbers, strings, true, false, null and lists stand for themselves; else ``{"tensor": name}``,
``{"dict": [[key, value], ..]}``, ``{"tuple": [..]}`` and ``{"float": "nan" | "inf" | "-inf"}``."""

DEEPEST = 64
"""Levels of nesting; an optimizer needs five."""


def pack(value: Any, name: str = "value") -> tuple[dict[str, Tensor], Skeleton]:
    """Take ``value`` apart.

    Args:
        value: Any nesting of dict, list, tuple, tensor, str, int, float, bool and None.
        name: First part of the tensors' names, which tell the way to each tensor: ``value.state.0.exp_avg``.

    Returns:
        Tensors (detached, contiguous, still sharing memory with ``value``: write them before it changes), and
        the skeleton. A tensor that occurs several times is named once: safetensors refuses shared memory.

    Raises:
        TypeError: ``value`` holds something else, say a function.
    """
    store = _TensorStore()
    return store.tensors, _skeleton(value, name, store)


class _TensorStore:
    """Tensors by name, each memory once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.names: dict[tuple[Any, ...], str] = {}

    def put(self, tensor: Tensor, path: str) -> str:
        tensor = tensor.detach()
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and identity in self.names:
            return self.names[identity]
        name, count = path, 2
        while name in self.tensors:
            name, count = f"{path}#{count}", count + 1
        alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        self.tensors[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        self.names[identity] = name
        return name


def _skeleton(part: Any, path: str, store: _TensorStore) -> Skeleton:
    match part:
        case None | bool() | str() | int():
            return part
        case float():
            return part if math.isfinite(part) else {"float": str(part)}
        case Tensor():
            return {"tensor": store.put(part, path)}
        case tuple():
            return {"tuple": [_skeleton(item, f"{path}.{index}", store) for index, item in enumerate(part)]}
        case list():
            return [_skeleton(item, f"{path}.{index}", store) for index, item in enumerate(part)]
        case Mapping():
            pairs = part.items()
            return {
                "dict": [[_skeleton(k, path, store), _skeleton(v, f"{path}.{k}", store)] for k, v in pairs]
            }
    raise TypeError(f"{path} is a {type(part).__name__}, which a checkpoint cannot hold without pickle.")


def unpack(tensors: Mapping[str, Tensor], skeleton: Skeleton) -> Any:
    """Put together what ``pack`` took apart. Equal to the bit; tensors are those given, not copies.

    Raises:
        BadCheckpoint: The skeleton is not one, or names a tensor that is missing.
    """
    return _unpack(tensors, skeleton, DEEPEST)


def _unpack(tensors: Mapping[str, Tensor], part: Skeleton, depth: int) -> Any:
    if not depth:
        raise BadCheckpoint(
            f"The checkpoint is nested deeper than {DEEPEST} levels: it is damaged. Use an older one."
        )
    match part:
        case None | bool() | str() | int() | float():
            return part
        case list():
            return [_unpack(tensors, item, depth - 1) for item in part]
        case {"tensor": str(name), **rest} if not rest:
            if name not in tensors:
                raise BadCheckpoint(f"The checkpoint lacks the tensor {name!r}. Use an older one.")
            return tensors[name]
        case {"float": ("nan" | "inf" | "-inf") as text, **rest} if not rest:
            return float(text)
        case {"tuple": list(items), **rest} if not rest:
            return tuple(_unpack(tensors, item, depth - 1) for item in items)
        case {"dict": list(pairs), **rest} if not rest:
            return _dict(tensors, pairs, depth - 1)
    raise BadCheckpoint(f"The checkpoint holds {str(part)[:60]!r}, which means nothing. Use an older one.")


def _dict(tensors: Mapping[str, Tensor], pairs: list[Any], depth: int) -> dict[Any, Any]:
    entries = {}
    for pair in pairs:
        match pair:
            case [(None | bool() | str() | int() | float() | {"tuple": _} | {"float": _}) as key, value]:
                entries[_key(tensors, key, depth)] = _unpack(tensors, value, depth)
            case _:
                raise BadCheckpoint(f"The checkpoint holds the entry {str(pair)[:60]!r}. Use an older one.")
    return entries


def _key(tensors: Mapping[str, Tensor], key: Skeleton, depth: int) -> Any:
    value = _unpack(tensors, key, depth)
    try:
        hash(value)
    except TypeError as error:
        raise BadCheckpoint(f"The checkpoint has the key {str(key)[:60]!r}. Use an older one.") from error
    return value


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load ``optimizer.state_dict()`` without the rounding of ``load_state_dict``.

    torch (and bitsandbytes) cast floating-point state to the parameter's dtype, which for bf16 parameters
    rounds the float32 moments of Adafactor and small 8-bit AdamW tensors: the resumed run would differ.

    Raises:
        BadCheckpoint: The state belongs to an optimizer of other parameters.
    """
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BadCheckpoint(
            f"The checkpoint's optimizer state does not fit this run ({error}). "
            "Go on with the recipe it was made with, or start in another folder."
        ) from error
    saved_ids = chain.from_iterable(group["params"] for group in state["param_groups"])
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for index, parameter in zip(saved_ids, parameters, strict=True):
        saved = state["state"].get(index, {})
        flat = saved | dict(chain.from_iterable(v.items() for v in saved.values() if isinstance(v, dict)))
        now = optimizer.state.get(parameter, {})
        for key, value in flat.items():
            if isinstance(value, Tensor) and key in now and now[key].dtype != value.dtype:
                now[key] = value.to(now[key].device)
