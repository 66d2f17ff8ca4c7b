import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from limner.errors import BadLora
from limner.lora.factors import Factors
from limner.lora.metadata import (
    LoraMetadata,
    SamplingHints,
    header,
    header_entries,
    public_entries,
    sampling_hints,
    triggers,
)
from messages import raises

ABOUT = LoraMetadata(
    title="my-cat",
    architecture="flux-1-dev/lora",
    base="black-forest-labs/FLUX.1-dev",
    base_version="flux1",
    trigger="sks cat",
    resolution=(1024, 768),
    steps=1500,
    seed=0,
    date="2026-01-02T03:04:05+00:00",
)


def adapter(*ranks: int) -> dict[str, dict[str, Factors]]:
    modules = {f"m{i}": Factors(torch.ones(rank, 64), torch.ones(64, rank)) for i, rank in enumerate(ranks)}
    return {"transformer": modules}


def test_modelspec_and_sd_scripts() -> None:
    entries = header_entries(ABOUT, adapter(16, 16))
    assert all(isinstance(value, str) and value for value in entries.values())
    wanted = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "my-cat",
        "modelspec.resolution": "1024x768",
        "modelspec.date": "2026-01-02T03:04:05+00:00",
        "ss_base_model_version": "flux1",
        "ss_sd_model_name": "black-forest-labs/FLUX.1-dev",
        "ss_network_dim": "16",
        "ss_network_alpha": "16",
        "ss_seed": "0",
        "ss_steps": "1500",
    }
    assert wanted.items() <= entries.items()


def test_the_trigger_stands_where_readers_look() -> None:
    entries = header_entries(ABOUT, adapter(4))
    assert entries["modelspec.trigger_phrase"] == entries["ss_trigger_words"] == "sks cat"
    assert json.loads(entries["ss_tag_frequency"]) == {"1_sks cat": {"sks cat": 1}}
    assert triggers(entries) == ("sks cat",)


def test_what_is_not_known_is_left_out() -> None:
    bare = LoraMetadata(title="x", architecture="flux-1-dev/lora", base="glyph", base_version="flux1")
    entries = header_entries(bare, adapter(4, 8))
    assert entries["ss_network_dim"] == "Dynamic"
    assert entries["modelspec.date"]
    unknown = {
        "ss_tag_frequency",
        "ss_trigger_words",
        "ss_steps",
        "modelspec.resolution",
        "modelspec.usage_hint",
    }
    assert not unknown & entries.keys()
    assert triggers(entries) == ()


@pytest.mark.parametrize(
    ("base", "written"),
    [
        ("/home/ann/models/flux-dev", "flux-dev"),
        ("/home/ann/models/flux-dev/", "flux-dev"),
        ("C:\\Users\\ann\\flux-dev", "flux-dev"),
        ("./models/flux", "flux"),
        ("~/flux", "flux"),
        ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-dev"),
        ("glyph", "glyph"),
    ],
)
def test_no_local_path_is_written(base: str, written: str) -> None:
    about = LoraMetadata(title="x", architecture="flux-1-dev/lora", base=base, base_version="flux1")
    entries = header_entries(about, adapter(4))
    assert entries["ss_sd_model_name"] == written
    assert "ann" not in "".join(entries.values())


@pytest.mark.parametrize(
    ("hints", "entries"),
    [
        (SamplingHints(), {}),
        (SamplingHints(lora_on="positive"), {"limner.lora_on": "positive"}),
        (SamplingHints(guidance=2.5), {"limner.guidance": "2.5"}),
        (
            SamplingHints(negative_lora="grey.safetensors", guidance=4.0),
            {
                "limner.lora_on": "positive",
                "limner.guidance": "4",
                "limner.negative_lora": "grey.safetensors",
            },
        ),
    ],
)
def test_what_is_asked_for_is_read_back(hints, entries):
    assert hints.entries() == entries
    assert sampling_hints({"modelspec.title": "a"} | entries) == hints


@pytest.mark.parametrize(
    "entries",
    [
        {"limner.lora_on": "negative"},
        {"limner.guidance": "much"},
        {"limner.guidance": "nan"},
        {"limner.guidance": "-1"},
        {"limner.guidance": "1e9"},
        {"limner.negative_lora": "../grey.safetensors"},
        {"limner.negative_lora": "C:\\grey.safetensors"},
        {"limner.negative_lora": "grey.ckpt"},
    ],
    ids=lambda entries: "=".join(next(iter(entries.items()))),
)
def test_entries_that_mean_nothing_are_told(entries):
    with raises(BadLora):
        sampling_hints(entries)


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


def test_what_is_private_is_left_out() -> None:
    kept = {
        "modelspec.title": "cat",
        "limner.lora_on": "positive",
        "ss_steps": "3",
        "ss_trigger_words": "sks",
    }
    private = {
        "ss_dataset_dirs": "{}",
        "ss_tag_frequency": '{"1_sks": {"ada at home": 1}}',
        "ss_comment": "x",
    }
    base = {"ss_sd_model_name": "C:\\Users\\ada\\flux1-dev.safetensors"}
    assert public_entries(kept | private | base) == kept | {"ss_sd_model_name": "flux1-dev.safetensors"}
    tags = {"ss_tag_frequency": '{"1_sks": {"sks": 1}}'}
    assert public_entries(kept | tags) == kept | tags
