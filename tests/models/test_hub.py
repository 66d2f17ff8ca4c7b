"""What of a base is here, and its parts that lie elsewhere."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from limner.errors import BadBase
from limner.models import hub
from limner.models.hidream.facts import LLAMA
from limner.models.loading import load
from limner.models.registry import family_of
from limner.models.source import Source, locate
from messages import raises
from tiny_hidream import save_hidream

BORROWED = ("text_encoder_4", "tokenizer_4")


class Hub:
    """A hub with two repositories: the base without Llama, and Llama with its files at the top."""

    def __init__(self, folder: Path) -> None:
        self.base = save_hidream(folder / "base")
        self.llama = folder / "llama"
        self.llama.mkdir()
        for part in BORROWED:
            for path in (self.base / part).iterdir():
                shutil.move(path, self.llama / path.name)
            (self.base / part).rmdir()
        self.here: set[str] = {"HiDream-ai/HiDream-I1-Full"}
        self.fetched: list[str] = []
        self.error: Exception | None = None

    def snapshot_download(self, repo_id: str, *, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only and repo_id not in self.here:
            raise errors.LocalEntryNotFoundError("not here")
        if not local_files_only:
            if self.error:
                raise self.error
            self.fetched.append(repo_id)
        return str(self.llama if repo_id == LLAMA else self.base)

    def model_info(self, _: str, **__: Any) -> Any:
        file = SimpleNamespace(rfilename="model.safetensors", size=16 * 10**9)
        return SimpleNamespace(siblings=[file], gated="manual", card_data={"license": "llama3.1"})


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub_ = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_.snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", hub_.model_info)
    monkeypatch.setattr("limner.models.source.require_space", lambda *_: None)
    return hub_


def test_what_a_bases_repository_lacks_is_fetched_from_where_it_is(two: Hub):
    said: list[str] = []
    source = locate("hidream-i1-full", folders={}, tell=said.append)
    assert two.fetched == [LLAMA] and len(said) == 1
    assert "16.0 GB" in said[0] and "llama3.1; gated" in said[0]
    assert {source.folder(part) for part in BORROWED} == {two.llama} and source.lacks == []
    family = family_of("HiDreamImagePipeline")
    for part in BORROWED:
        assert load(family, source, part, dtype=torch.float32, device=torch.device("cpu")) is not None
        assert source.fingerprint(part, "")
    two.here.add(LLAMA)
    locate("hidream-i1-full", folders={})
    assert two.fetched == [LLAMA]


def test_an_index_that_does_not_name_them_names_them_all_the_same(two: Hub):
    path = two.base / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "text_encoder_4": [None, None], "tokenizer_4": [None, None]}))
    source = locate("hidream-i1-full", folders={})
    assert source.index["text_encoder_4"] == ["transformers", "LlamaForCausalLM"]
    assert set(BORROWED) <= set(source.models)


def test_where_they_cannot_be_had_the_remedy_is_said(two: Hub):
    response: Any = SimpleNamespace(headers={}, request=None)
    two.error = errors.GatedRepoError("gated", response=response)
    with raises(BadBase):
        locate("hidream-i1-full", folders={})
    two.error = errors.LocalEntryNotFoundError("no network")
    with raises(BadBase):
        locate("hidream-i1-full", folders={})


def test_a_folder_without_them_is_planned_and_says_what_to_copy(two: Hub):
    source = locate(str(two.base), folders={})
    assert source.config("text_encoder_4")["num_hidden_layers"] == 32, "as it is on the hub"
    for part in BORROWED:
        with raises(BadBase):
            source.weights(part)


def test_one_folder_with_all_files_of_the_donor_is_enough(two: Hub):
    shutil.copytree(two.llama, two.base / "text_encoder_4")
    source = locate(str(two.base), folders={})
    assert {source.folder(part) for part in BORROWED} == {two.base / "text_encoder_4"} and source.lacks == []
    family = family_of("HiDreamImagePipeline")
    tokenizer = load(family, source, "tokenizer_4", dtype=torch.float32, device=torch.device("cpu"))
    assert tokenizer("a").input_ids[0] == 0


def test_a_base_is_here_when_all_of_it_is(two: Hub):
    assert not hub.on_this_disk("hidream-i1-full")
    two.here.add(LLAMA)
    assert hub.on_this_disk("hidream-i1-full")
    assert not hub.on_this_disk("sdxl")
    assert hub.on_this_disk("own/er"), "what it is must be fetched anyway"


def test_no_other_part_has_a_donor(two: Hub):
    source = Source(two.base, "x")
    assert hub.donor_of(source, "vae") == "" and hub.remedy(source, "vae") == ""
    assert hub.donor_of(source, "text_encoder_4") == LLAMA
