import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from limner.errors import BadLora
from limner.lora.safety import header
from messages import raises


def written(path: Path, table: object, data: bytes = b"\0" * 16) -> Path:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(
    start: int = 0, end: int = 16, shape: tuple[int, ...] = (2, 2), dtype: str = "F32"
) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_a_header_tells_where_everything_lies(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    save_file({"b": torch.ones(2, 3), "a": torch.ones(1, 2)}, path, metadata={"who": "me"})
    found = header(path)
    assert found.metadata == {"who": "me"}
    assert {name: shape for name, (_, shape, _, _) in found.tensors.items()} == {"a": (1, 2), "b": (2, 3)}
    assert found.start + 8 * 4 == path.stat().st_size


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[1]", "not an object"),
        ({}, "0 tensors"),
        ({"../up": entry()}, "characters that no name of a module has"),
        ({"a.lora_A.weight": entry(dtype="I64")}, "I64"),
        ({"a.lora_A.weight": entry(shape=(4,))}, "2 or 4 sides"),
        ({"a": entry(end=12)}, "12 bytes"),
        ({"a": entry(4, 20)}, "begins at byte 4"),
        ({"a": entry(), "__metadata__": {"n": 1}}, "not made of strings"),
        ({"a": {"dtype": "F32"}}, "no dtype, shape and place"),
    ],
)
def test_what_a_lora_may_not_be_is_refused_with_its_reason(
    tmp_path: Path, table: object, reason: str
) -> None:
    with pytest.raises(BadLora, match=reason):
        header(written(tmp_path / "bad.safetensors", table))


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    with raises(BadLora):
        header(written(tmp_path / "long.safetensors", {"a": entry()}, b"\0" * 24))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04rest of a zip", "pickle"),
        (b"\x80\x04\x95 pickle", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs"),
        (b"<!doctype html><html>", "web page"),
        (b"", "0 bytes"),
    ],
)
def test_other_files_are_known_by_their_content(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadLora, match=reason):
        header(path)
