from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

import limner
from limner.errors import BadBase, BadLora, BadRecipe
from limner.lora import location
from limner.lora.location import local, locate_base, on_hub, output_path
from messages import raises
from publishing.runs_to_publish import lora_file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a hub that has one LoRA in each repository."""
    cached = lora_file(tmp_path / "hub" / "snapshots" / "0" / "weights.safetensors")
    names = ["weights.safetensors", "other/second.safetensors"]

    class Hub:
        def model_info(self, hub_id: str) -> SimpleNamespace:
            files = names[:1] if hub_id == "ada/cat" else names
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda hub_id, name: str(cached))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return cached


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("ada/cat", True),
        ("ada/cat/other/second.safetensors", True),
        ("ada/cat.safetensors", False),
        ("cat", False),
        ("./ada/cat", True),
        ("/ada/cat", False),
        ("../ada/cat", False),
        ("runs/cat", False),
        ("a/b/c", False),
        ("mine/cat", False),
    ],
)
def test_a_name_is_of_the_hub_where_nothing_of_it_is_here(here: Path, name: str, answer):
    Path("mine").mkdir()
    assert on_hub(name) is answer
    if not answer:
        assert local(name) == Path(name)


def test_a_hub_id_becomes_its_file(here: Path):
    assert local("ada/cat") == here and local("ada/two/other/second.safetensors") == here
    with raises(BadLora):
        local("ada/two")
    with raises(BadLora):
        local("ada/two/third.safetensors")


def test_what_is_made_of_one_goes_into_the_working_directory(here: Path):
    assert output_path("ada/cat", "-8.safetensors") == Path("cat-8.safetensors")
    assert output_path("ada/two/other/second.safetensors", "-8.safetensors") == Path("second-8.safetensors")
    assert output_path(here, "-8.safetensors") == here.with_name("weights-8.safetensors")


def test_the_verbs_take_hub_ids(here: Path):
    assert limner.lora.info("ada/cat").title == "My Cat"
    assert limner.lora.convert("ada/cat", "comfyui").path == Path("cat-comfyui.safetensors")
    assert limner.lora.resize("ada/cat", rank=1).path == Path("cat-resized.safetensors")
    assert limner.lora.merge(["ada/cat", "cat-resized.safetensors"], "both.safetensors").modules
    assert {path.name for path in Path().iterdir()} == {
        "cat-comfyui.safetensors",
        "cat-resized.safetensors",
        "both.safetensors",
    }


def test_generate_takes_hub_ids(here: Path, monkeypatch: pytest.MonkeyPatch):
    requests = []
    monkeypatch.setattr(
        "limner.generation.generate.generate", lambda request, _: requests.append(request) or []
    )
    limner.generate("ada/cat", "a hat", loras={"runs/hat": 0.5})
    (request,) = requests
    assert request.targets == (here,) and request.out == Path("cat-pictures")
    assert request.loras == {Path("runs/hat"): 0.5}


def test_looking_at_a_name_fetches_nothing(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(location, "local", lambda name: pytest.fail(f"fetched {name}"))
    assert on_hub("ada/cat") and output_path("ada/cat", "") == Path("cat")


def test_what_cannot_be_a_base_is_told(tmp_path):
    with pytest.raises(BadBase, match=r"There is no file .*gone\.safetensors"):
        locate_base(str(tmp_path / "gone.safetensors"))
    with pytest.raises(BadRecipe, match="which is for a base in one file"):
        locate_base("glyph", components_from="sdxl")
