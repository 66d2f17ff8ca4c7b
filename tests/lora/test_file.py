import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from limner.errors import BadLora, DiskFull
from limner.lora import file
from limner.lora.factors import Factors
from limner.lora.file import difference, read, require_equal, write
from loras import dora, factors, loha, lokr
from messages import raises

Components = dict[str, dict[str, Factors]]


def components(scale: float = 1.0) -> Components:
    draw = torch.Generator().manual_seed(0)
    made = {
        f"transformer_blocks.{i}.attn.to_q": Factors(
            torch.randn(4, 8, generator=draw), scale * torch.randn(12, 4, generator=draw)
        )
        for i in range(3)
    }
    clip = Factors(torch.randn(2, 8, generator=draw), torch.randn(8, 2, generator=draw))
    return {"transformer": made, "text_encoder": {"encoder.layers.0.mlp.fc1": clip}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lora.safetensors"
    write(path, components(), {"modelspec.title": 'cat\n"ü"'})
    again = read(path)
    assert again.metadata["modelspec.title"] == 'cat\n"ü"'
    assert list(again.components["text_encoder"]) == ["text_model.encoder.layers.0.mlp.fc1"]
    for module, kept in components()["transformer"].items():
        assert torch.equal(again.components["transformer"][module].down, kept.down)
        assert torch.equal(again.components["transformer"][module].up, kept.up)
    assert again.notes == ()
    assert [entry.name for entry in path.parent.iterdir()] == ["lora.safetensors"]


def test_the_hash_is_that_of_the_bytes_behind_the_header(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    write(path, components(), {})
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    assert read(path).metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(raw[start:]).hexdigest()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_smaller_dtypes(tmp_path: Path, dtype: torch.dtype, error: float) -> None:
    path = tmp_path / "lora.safetensors"
    write(path, components(), {}, dtype)
    kept = components()["transformer"]["transformer_blocks.0.attn.to_q"].down
    found = read(path).components["transformer"]["transformer_blocks.0.attn.to_q"].down
    assert found.dtype == torch.float32
    assert torch.allclose(found, kept, rtol=error, atol=0)
    assert not torch.equal(found, kept)


@pytest.mark.parametrize(
    ("made", "dtype", "reason"),
    [
        (components(1e6), torch.float16, "too large for float16. Write bfloat16 or float32"),
        (components(float("nan")), torch.float32, "not finite. Export an earlier checkpoint"),
        (components(), torch.float64, "cannot be written as torch.float64"),
        ({}, torch.float32, "There is no module to write"),
        ({"transformer": {}}, torch.float32, "There is no module to write"),
        (
            {"transformer": {"../etc": components()["text_encoder"]["encoder.layers.0.mlp.fc1"]}},
            torch.float32,
            "key",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(
    tmp_path: Path, made: Components, dtype: torch.dtype, reason: str
) -> None:
    path = tmp_path / "lora.safetensors"
    write(path, components(), {})
    before = path.read_bytes()
    with pytest.raises(BadLora, match=reason):
        write(path, made, {}, dtype)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_other_endings_and_endless_metadata_are_refused(tmp_path: Path) -> None:
    with raises(BadLora):
        write(tmp_path / "lora.bin", components(), {})
    with raises(BadLora):
        write(tmp_path / "lora.safetensors", components(), {"x": "y" * 1_000_001})
    assert not list(tmp_path.iterdir())


def test_a_disk_that_lies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(flat: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
        flat = {name: tensor.clone() for name, tensor in flat.items()}
        next(iter(flat.values()))[0, 0] += 1
        return save(flat, metadata)

    monkeypatch.setattr(file, "save", lying)
    with raises(BadLora):
        write(tmp_path / "lora.safetensors", components(), {})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lora.safetensors"
    write(path, components(), {})
    before = path.read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with raises(DiskFull):
        write(path, components(2.0), {})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def raw(header: Any, data: bytes = bytes(32), *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(
    start: int, shape: tuple[Any, ...] = (2, 2), dtype: str = "F32", end: int | None = None
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + 16 if end is None else end]}


A, B = "transformer.x.lora_A.weight", "transformer.x.lora_B.weight"
GOOD = {A: entry(0), B: entry(16)}
TWICE = json.dumps(GOOD)[:-1] + f', "{B}": {json.dumps(entry(16))}}}'
MANY = {f"transformer.x{i}.lora_A.weight": entry(0) for i in range(20_001)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header claims 0 bytes of a file of 0"),
        (b"\x07\x00", "header claims 0 bytes"),
        (raw(GOOD, length=1), "header claims 1 bytes"),
        (raw(GOOD, length=2**63), "header claims 9223372036854775808 bytes"),
        (raw(b"\xff\xfe{"), "header is not JSON"),
        (raw(b"{" * 5000), "header is not JSON"),
        (raw(b"[" * 100_000), "header is not JSON"),
        (raw([1]), "a JSON list, not an object"),
        (raw({}), "holds 0 tensors"),
        (raw(MANY), "holds 20001 tensors"),
        (raw(TWICE.encode()), f"header has '{B}' twice"),
        (raw(GOOD | {"__metadata__": {"a": 1}}), "metadata is not made of strings"),
        (raw(GOOD | {"__metadata__": []}), "metadata is not made of strings"),
        (raw(GOOD | {"__metadata__": {"a": "b" * 1_000_001}}), "metadata has 1000002 characters"),
        (raw(b'{"a": NaN}'), "holds NaN, which JSON does not know"),
        (raw({A: entry(0), "../../etc/passwd": entry(16)}), "characters that no name of a module has"),
        (raw({A: entry(0), "transformer.x\n": entry(16)}), "characters that no name of a module has"),
        (raw({A: entry(0), B: 1}), "no dtype, shape and place"),
        (raw({A: entry(0), B: entry(16, dtype="I64")}), "is I64, and factors are F32, F16, BF16, F8_E4M3"),
        (raw({A: entry(0), B: entry(16, dtype="F64")}), "is F64"),
        (raw({A: entry(0), B: entry(16, (4,))}), "2 or 4 sides"),
        (raw({A: entry(0), B: entry(16, ())}), "2 or 4 sides"),
        (raw({A: entry(0), B: entry(16, (0, 4))}), "none empty"),
        (raw({A: entry(0), B: entry(16, (-2, -2))}), "none empty"),
        (raw({A: entry(0), B: entry(16, ("2", 2))}), "2 or 4 sides"),
        (raw({A: entry(0), B: entry(16, (2, 3))}), "16 bytes for the shape"),
        (raw({A: entry(0), B: entry(16, (2**40, 2**40))}), "16 bytes for the shape"),
        (raw({A: entry(0), B: entry(8)}), "begins at byte 8, and 16 is where"),
        (raw({A: entry(0), B: entry(20)}), "begins at byte 20, and 16 is where"),
        (raw({A: entry(0), B: entry(-16)}), "begins at byte -16, and 0 is where"),
        (raw(GOOD, bytes(33)), "1 bytes trail behind the last tensor"),
        (raw(GOOD, bytes(31)), "1 bytes are missing at its end"),
        (raw(GOOD, struct.pack("<8f", *[float("nan")] * 8)), f"{A} holds NaN or infinity"),
        (raw(GOOD, struct.pack("<8f", *[1.0] * 7, float("inf"))), f"{B} holds NaN or infinity"),
        (
            raw(GOOD | {"__metadata__": {"lora_adapter_metadata": "[]"}}),
            "lora_adapter_metadata is no JSON object",
        ),
        (raw({A: entry(0), "lora_unet_x.lora_up.weight": entry(16)}), "are in no family that Limner knows"),
        (raw({A: entry(0), "transformer.x.alpha": entry(16, (4,))}), "and alpha is one number"),
        (
            raw({A: entry(0, (16, 1), end=64), B: entry(64, (1, 16), end=128)}, bytes(128)),
            "rank 16 for a weight of 1",
        ),
        (raw({A: entry(0), "transformer.y.lora_B.weight": entry(16)}), "has no lora_B"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of git-lfs"),
        (b"<!DOCTYPE html><html>", "is a web page"),
    ],
)
def test_a_malformed_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadLora) as caught:
        read(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def zipped(path: Path) -> None:
    torch.save({"x": torch.ones(2)}, path)


def legacy(path: Path) -> None:
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [zipped, legacy])
def test_a_pickle_is_known_by_its_content(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "lora.safetensors"
    save(path)
    with raises(BadLora):
        read(path)


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    text = json.dumps(GOOD).encode()
    path.write_bytes(raw(text + b" " * (0x0280 - len(text))))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert list(read(path).components) == ["transformer"]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with raises(BadLora):
        read(tmp_path / "gone.safetensors")
    with raises(BadLora):
        read(tmp_path)


def test_every_truncation_and_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    write(path, components(), {"software": "Limner 1"})
    whole, kept = path.read_bytes(), read(path)
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    damaged = [whole[:cut] for cut in range(0, len(whole), 37)]
    damaged += [whole[:i] + bytes([whole[i] ^ 0x15]) + whole[i + 1 :] for i in range(0, start, 7)]
    damaged += [whole[:i] + bytes([whole[i] ^ 0x40]) + whole[i + 1 :] for i in range(start, len(whole), 97)]
    seen = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            found = read(path)
        except BadLora:
            seen += 1
            continue
        assert (
            found.metadata != kept.metadata
            or list(found.components) != list(kept.components)
            or _renamed(found, kept)
            or found.notes != kept.notes
        )
    assert seen > 0.3 * len(damaged)


def _renamed(found: file.LoraFile, kept: file.LoraFile) -> bool:
    return any(found.components[c].keys() != kept.components[c].keys() for c in kept.components)


def test_a_rank_wider_than_its_weight_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    write(path, {"transformer": {"x": Factors(torch.ones(9, 4), torch.ones(6, 9))}}, {})
    assert read(path).notes == ("transformer.x has rank 9, more than its weight can have.",)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    """As sd-scripts saves with fp8; float16 holds each of its numbers."""
    stem, path = "transformer.transformer_blocks.59.attn.to_q", tmp_path / "lora.safetensors"
    flat = {f"{stem}.lora_A.weight": torch.randn(2, 8), f"{stem}.lora_B.weight": torch.randn(8, 2)}
    flat = {key: tensor.to(dtype) for key, tensor in flat.items()}
    save_file(flat, path)
    found = read(path, "qwen-image")
    change = found.components["transformer"]["transformer_blocks.59.attn.to_q"]
    assert isinstance(change, Factors)
    assert torch.equal(change.up, flat[f"{stem}.lora_B.weight"].float())
    assert found.dtype == torch.float16
    assert torch.equal(change.up.half().float(), change.up)


def test_a_file_that_another_program_changed_is_read_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    write(path, {"transformer": {"x": Factors(torch.ones(2, 4), torch.ones(6, 2))}}, {})
    metadata = read(path).metadata
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path, metadata)
    assert read(path).notes[0].startswith("Its modelspec.hash_sha256 is of other tensors")


def test_empty_shards_are_told_by_their_cause(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"transformer.x.lora_A.weight": torch.zeros(0)}, path)
    with pytest.raises(BadLora, match="split by ZeRO-3 or FSDP. Gather the weights before saving"):
        read(path)


def check(found, wished, dtype=torch.float32) -> float:
    return require_equal("f", "reader", {"unet": found}, {"unet": wished}, dtype)


def test_equal_is_equal() -> None:
    all_kinds = {"a": factors(), "b": loha(), "c": lokr(), "d": dora()}
    assert check(all_kinds, all_kinds) == 0


def test_the_same_change_in_other_factors_is_equal() -> None:
    one = factors()
    assert check({"a": Factors(one.down * 2, one.up / 2)}, {"a": one}) < 1e-7
    assert check({"a": loha().to_lora()}, {"a": loha()}) < 1e-6


@pytest.mark.parametrize(
    ("found", "wished", "reason"),
    [
        ({}, {"a": factors()}, "reads 1 modules otherwise, the first is unet.a"),
        ({"a": factors(), "b": factors()}, {"a": factors()}, "the first is unet.b"),
        ({"a": factors(seed=1)}, {"a": factors()}, "% off when read as"),
        ({"a": factors(6)}, {"a": factors()}, "inf% off"),
        ({"a": dora(seed=1)}, {"a": dora()}, "% off when read as"),
        ({"a": dora(axis="in")}, {"a": dora()}, "inf% off"),
        ({"a": factors()}, {"a": dora()}, "inf% off"),
    ],
)
def test_what_differs_is_refused(found, wished, reason: str) -> None:
    with pytest.raises(BadLora, match=reason):
        check(found, wished)


def test_a_zero_may_be_lost() -> None:
    zero = Factors(torch.ones(1, 8), torch.zeros(8, 1))
    assert check({"a": factors()}, {"a": factors(), "b": zero}) == 0
    assert difference(zero, zero, torch.Generator()) == 0


class Hub:
    """Stands for the hub: a repository with files of these names."""

    def __init__(self, *names: str) -> None:
        self.siblings = [type("File", (), {"rfilename": name}) for name in ("README.md", *names)]

    def model_info(self, hub_id: str) -> "Hub":
        return self


def test_a_path_that_is_there_is_itself(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert file.find(str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    "names", [("cat.safetensors",), ("pytorch_lora_weights.safetensors", "step-9.safetensors")]
)
def test_the_file_of_a_hub_id(names, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(*names))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda hub_id, name: f"/hub/{hub_id}/{name}")
    assert file.find("owner/cats") == Path(f"/hub/owner/cats/{names[0]}")


@pytest.mark.parametrize("names", [(), ("a.safetensors", "b.safetensors")], ids=["none", "two"])
def test_a_hub_id_without_the_one_file_is_told(names, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(*names))
    with raises(BadLora):
        file.find("owner/cats")


def test_what_was_fetched_before_is_found_without_the_hub(tmp_path, monkeypatch):
    fetched = tmp_path / "models--owner--cats"
    for name in ("cat.safetensors", "deep/dog.safetensors"):
        path = fetched / "snapshots" / ("a" * 40) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (fetched / "refs").mkdir()
    (fetched / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    dog = file.find("owner/cats/deep/dog.safetensors")
    with pytest.raises(BadLora, match="has 2 safetensors files"):
        file.find("owner/cats")
    dog.unlink()
    assert file.find("owner/cats").name == "cat.safetensors"


@pytest.mark.parametrize("name", ["nowhere.safetensors", "owner/cats", "a/b/c", "./cat"])
def test_what_is_nowhere_is_told(name):
    with raises(BadLora):
        file.find(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="only POSIX has named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(BadLora, match="is no file but a pipe or a device"):
        read(tmp_path / "a.safetensors")
