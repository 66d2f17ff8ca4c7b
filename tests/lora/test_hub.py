from pathlib import Path

import huggingface_hub
import pytest

from limner.errors import BadLora
from limner.lora import hub
from messages import raises


class Hub:
    """Stands for the hub: a repository with files of these names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def list_repo_files(self, hub_id: str) -> list[str]:
        return ["README.md", *self.names]


def test_a_path_that_is_there_is_itself(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert hub.find(str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    "names", [("cat.safetensors",), ("pytorch_lora_weights.safetensors", "step-9.safetensors")]
)
def test_the_file_of_a_hub_id(names, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(*names))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda hub_id, name: f"/hub/{hub_id}/{name}")
    assert hub.find("owner/cats") == Path(f"/hub/owner/cats/{names[0]}")


@pytest.mark.parametrize("names", [(), ("a.safetensors", "b.safetensors")], ids=["none", "two"])
def test_a_hub_id_without_the_one_file_is_told(names, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(*names))
    with raises(BadLora):
        hub.find("owner/cats")


@pytest.mark.parametrize("name", ["nowhere.safetensors", "owner/cats", "a/b/c", "./cat"])
def test_what_is_nowhere_is_told(name):
    with raises(BadLora):
        hub.find(name)
