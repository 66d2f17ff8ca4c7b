import pytest
import torch
from safetensors.torch import save_file

from limner.errors import BadLora
from limner.lora import file
from limner.lora.metadata import header
from limner.lora.saving import copy_with_metadata, reread, save
from limner.lora.tools import COMFYUI
from loras import denoiser
from messages import raises


def test_reading_again_finds_what_is_not_as_meant(tmp_path) -> None:
    path = tmp_path / "a.safetensors"
    file.write(path, {"transformer": denoiser("qwen-image")}, {"modelspec.title": "cat"})
    with raises(BadLora):
        wished = denoiser("qwen-image")
        del wished["img_in"]
        reread(path, {"transformer": wished}, COMFYUI, "qwen-image")
    save_file({f"nowhere.{half}.weight": torch.ones(2, 2) for half in ("lora_A", "lora_B")}, path)
    with raises(BadLora):
        reread(path, {}, COMFYUI, "qwen-image")


def test_what_reads_back_otherwise_leaves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("limner.lora.saving.require_equal", _otherwise)
    path = tmp_path / "a.safetensors"
    with pytest.raises(BadLora, match="otherwise"):
        save(path, {"transformer": denoiser("qwen-image")}, {}, torch.float32, COMFYUI, "qwen-image")
    assert list(tmp_path.iterdir()) == []


def _otherwise(*_: object) -> float:
    raise BadLora("It reads otherwise.")


def test_other_metadata_leave_the_tensors_as_they_are(tmp_path) -> None:
    source, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    file.write(source, {"transformer": denoiser("flux", blocks=1)}, {"ss_output_name": "cat", "secret": "x"})
    copy_with_metadata(source, out, {"modelspec.title": "猫"})
    assert header(out).metadata == {"modelspec.title": "猫"} and header(out).start % 8 == 0
    assert file.bytes_hash(out) == file.bytes_hash(source)
    assert torch.equal(*(next(iter(file.tensors(path).values())) for path in (source, out)))
    copy_with_metadata(source, source, {})
    assert header(source).metadata == {}


def test_a_disk_that_gives_back_other_bytes_is_told(tmp_path, monkeypatch) -> None:
    source, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    file.write(source, {"transformer": denoiser("flux", blocks=1)}, {})
    monkeypatch.setattr(file, "bytes_hash", lambda path: str(path))
    with raises(BadLora):
        copy_with_metadata(source, out, {})
    assert not out.exists()
