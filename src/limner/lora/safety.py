"""What a LoRA file may be. Everything here is decided from the header, before a tensor is made."""

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from limner.errors import BadLora
from limner.files import foreign

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""The dtypes of LoRA factors, in safetensors' names, with their bytes."""

NUMBERS = SIZES | {"F64": 8, "I64": 8, "I32": 4}
"""Those of a lone number, alpha."""

ALONE = (0, 1)
"""Sides of a lone number."""

MOST_TENSORS = 20_000
LARGEST_HEADER = 16_000_000
LARGEST_METADATA = 1_000_000
"""Bytes; readers show the metadata to people."""

LONGEST_NAME = 300
"""Characters of a key."""

FACTORS = re.compile(r"\.(lora_\w+|hada_\w+|lokr_\w+|down|up|alpha|dora_scale)(\.|$)")
"""What the keys of factors have in them."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself, checked."""

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]]
    """Name -> dtype, shape, first byte, last byte + 1, counted from the end of the header; in file order."""
    start: int
    """Where in the file the header ends and the tensors' bytes begin."""


def header_text(path: Path, limit: int) -> tuple[bytes, int]:
    """The JSON of a safetensors file, unread, and where the tensors' bytes begin.

    Args:
        path: The file.
        limit: Bytes that the header may have.

    Raises:
        ValueError: The file begins with no length that it can have.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size, head = path.stat().st_size, file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, limit):
            raise ValueError(f"its header claims {length} bytes of a file of {size}")
        return file.read(length), 8 + length


def header(path: Path) -> Header:
    """Read and check the header of a LoRA file.

    Raises:
        BadLora: Anything is not as it must be; the message names what.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if reason := foreign(file.read(64)):
                raise BadLora(f"{path} {reason}")
        text, start = header_text(path, LARGEST_HEADER)
    except OSError as error:
        raise BadLora(
            f"{path} cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error
    except ValueError as error:
        _refuse(path, str(error))
    table = _json(path, text)
    metadata = _metadata(path, table.pop("__metadata__", {}))
    if not 0 < len(table) <= MOST_TENSORS:
        _refuse(path, f"it holds {len(table)} tensors, and a LoRA has 1 to {MOST_TENSORS}")
    tensors = {name: _tensor(path, name, entry) for name, entry in table.items()}
    by_offset = dict(sorted(tensors.items(), key=lambda item: item[1][2]))
    _refuse_gaps(path, by_offset, size - start)
    return Header(metadata, by_offset, start)


def _refuse(path: Path, reason: str) -> NoReturn:
    raise BadLora(f"{path} is not a safe LoRA file: {reason}. Get it again, or export it again.")


def _json(path: Path, text: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = {}
        for key, value in pairs:
            if key in result:
                _refuse(path, f"its header has {key[:60]!r} twice")
            result[key] = value
        return result

    def no_constants(word: str) -> NoReturn:
        _refuse(path, f"its header holds {word}, which JSON does not know")

    try:
        table = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except (ValueError, RecursionError) as error:
        raise BadLora(
            f"{path} is not a safe LoRA file: its header is not JSON ({str(error)[:60]}). Get it again."
        ) from error
    if not isinstance(table, dict):
        _refuse(path, f"its header is a JSON {type(table).__name__}, not an object")
    return table


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "its metadata is not made of strings")
    size = sum(len(key) + len(value) for key, value in metadata.items())
    if size > LARGEST_METADATA:
        _refuse(path, f"its metadata has {size} characters, more than {LARGEST_METADATA}")
    return metadata


def _tensor(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME or not set(name).isdisjoint("/\\"):
        _refuse(path, f"the key {name[:60]!r} has characters that no name of a module has")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            _refuse(path, f"{name} has no dtype, shape and place")
    sizes, sides = _expected(name)
    if dtype not in sizes:
        _refuse(path, f"{name} is {dtype[:20]}, and factors are {', '.join(sizes)}")
    if shape and all(type(side) is int for side in shape) and 0 in shape and start == end:
        raise BadLora(
            f"{path} holds empty tensors, the first is {name}: it was saved from a model split by ZeRO-3 or "
            "FSDP. Gather the weights before saving, and save it again."
        )
    if not all(type(side) is int and side > 0 for side in shape) or len(shape) not in sides:
        counts = " or ".join(map(str, sides))
        _refuse(path, f"{name} has the shape {str(shape)[:60]}, and factors have {counts} sides, none empty")
    if sides == ALONE and math.prod(shape) != 1:
        _refuse(path, f"{name} has the shape {str(shape)[:60]}, and alpha is one number")
    if end - start != math.prod(shape) * sizes[dtype]:
        _refuse(path, f"{name} has {end - start} bytes for the shape {shape} of {dtype}")
    return dtype, tuple(shape), start, end


def _expected(name: str) -> tuple[dict[str, int], tuple[int, ...]]:
    """The dtypes and the numbers of sides that a tensor of this name may have."""
    if name.endswith(".alpha"):
        return NUMBERS, ALONE
    if not FACTORS.search(name):
        return NUMBERS | SIZES, (1, 2, 3, 4)  # beside the factors: biases, norms, embeddings
    return SIZES, (1, 2, 4) if "lora_magnitude_vector" in name or name.endswith(".bias") else (2, 4)


def _refuse_gaps(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], int, int]], size: int) -> None:
    expected = 0
    for name, (_, _, start, end) in tensors.items():
        if start != expected:
            _refuse(path, f"{name} begins at byte {start}, and {expected} is where the tensor before it ends")
        expected = end
    if expected < size:
        _refuse(path, f"{size - expected} bytes trail behind the last tensor")
    if expected > size:
        _refuse(path, f"{expected - size} bytes are missing at its end")
