import json
from pathlib import Path

import pytest
import yaml

from limner.errors import BadUsage
from limner.lora import file
from limner.lora.metadata import header
from limner.publishing.publish import PublishRequest, publish
from limner.reporter import Reporter
from messages import raises
from publishing.fake_hub import FakeHub, hub_on_localhost
from publishing.runs_to_publish import SECRET, finished_run, lora_file

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # huggingface_hub's own


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with hub_on_localhost(monkeypatch) as hub:
        yield hub


def test_a_run_is_uploaded_as_one_commit(hub: FakeHub, tmp_path: Path):
    run = finished_run(tmp_path / "run")
    done = publish(PublishRequest(target=run.path, repo="ada/cat"), Reporter())
    assert done.url == f"{hub.url}/ada/cat" and hub.repos == {"ada/cat": False} and hub.commits == 1
    assert hub.tokens == {"Bearer hf_of_the_tests", ""} or hub.tokens == {"Bearer hf_of_the_tests"}
    files = hub.files["ada/cat"]
    assert (
        set(files)
        == set(done.files)
        == {
            "README.md",
            "pytorch_lora_weights.safetensors",
            "my-cat-comfyui.safetensors",
            "images/00.png",
            "images/01.png",
        }
    )
    path = tmp_path / "back.safetensors"
    path.write_bytes(files["pytorch_lora_weights.safetensors"])
    assert file.bytes_hash(path) == file.bytes_hash(run.lora_path)
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert front["base_model"] == "black-forest-labs/FLUX.1-dev"
    assert not any(
        word in content for word in (str(tmp_path).encode(), SECRET.encode()) for content in files.values()
    )
    again = publish(PublishRequest(target=run.path, repo="ada/cat"), Reporter())
    assert hub.commits == 2 and again == done


def test_a_dry_run_writes_the_same_folder_and_sends_nothing(hub: FakeHub, tmp_path: Path):
    run = finished_run(tmp_path / "run")
    lines = []
    reporter = Reporter(lambda event: lines.append(getattr(event, "text", "")))
    done = publish(
        PublishRequest(target=run.path, repo="ada/cat", dry_run=tmp_path / "out", civitai=tmp_path / "civ"),
        reporter,
    )
    assert (done.url, done.folder, hub.repos) == ("", tmp_path / "out", {})
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")} == set(
        done.files
    )
    assert "captions of the dataset: 1." in lines[0]
    page = json.loads((tmp_path / "civ/model.json").read_text())
    assert page["version"]["baseModel"] == "Flux.1 D" and page["version"]["steps"] == 300
    with raises(BadUsage):
        publish(PublishRequest(target=run.path, repo="ada/cat", dry_run=tmp_path / "out"), Reporter())


def test_captions_are_published_when_that_is_asked_for(tmp_path: Path):
    run = finished_run(tmp_path / "run")
    publish(PublishRequest(target=run.path, repo="a/b", dry_run=tmp_path / "out", captions=True), Reporter())
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"- text: {SECRET}" in text and f"- sks cat, {SECRET}" in text


@pytest.mark.parametrize(
    "request_keys",
    [{}, {"dry_run": Path("out")}, {"repo": "cat"}, {"repo": "ada/ca t"}, {"repo": "ada/cats/two"}],
)
def test_what_cannot_be_published_is_told(request_keys):
    with raises(BadUsage):
        publish(PublishRequest(target=Path("cat.safetensors"), **request_keys), Reporter())


def test_civitai_alone_needs_no_hub(tmp_path: Path):
    done = publish(
        PublishRequest(target=lora_file(tmp_path / "a.safetensors"), civitai=tmp_path / "civ"), Reporter()
    )
    assert done.files == () and header(tmp_path / "civ" / "my-cat.safetensors").metadata["ss_steps"] == "300"
    assert not list((tmp_path / "civ").glob("*.png"))
