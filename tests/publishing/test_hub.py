from pathlib import Path

import pytest
from huggingface_hub import constants

from limner.errors import BadHub
from limner.publishing.hub import upload
from messages import raises
from publishing.fake_hub import TORN, FakeHub, hub_on_localhost

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # huggingface_hub's own


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with hub_on_localhost(monkeypatch) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cat.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags:\n- lora\n---\nA cat.\n")
    return tmp_path


def test_a_private_repository_is_private_before_a_file_is_sent(hub: FakeHub, folder: Path):
    assert upload(folder, "ada/cat", private=True) == f"{hub.url}/ada/cat"
    assert hub.repos == {"ada/cat": True} and hub.commits == 1
    assert hub.files["ada/cat"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    upload(folder, "ada/cat", private=True)
    assert hub.commits == 2
    hub.repos["ada/dog"] = False
    with raises(BadHub):
        upload(folder, "ada/dog", private=True)
    assert "ada/dog" not in hub.files


@pytest.mark.parametrize(
    ("part", "status", "text"),
    [
        ("repos/create", 401, "Invalid username or password."),
        ("repos/create", 403, "You have no rights to create a model under the namespace ada"),
        ("preupload", 403, "Forbidden: pass a token of role write"),
        ("objects/batch", 403, "storage limit reached"),
        ("objects/", 400, "checksums differ"),
        ("commit", 400, "the metadata of the card is invalid"),
        ("repos/create", 500, "Internal Error"),
        ("preupload", 404, "Repository not found"),
        ("commit", 409, "Another upload is under way"),
        ("commit", 412, "A commit has happened since"),
        ("commit", TORN, "the connection is torn"),
    ],
)
def test_a_refusal_is_one_line(hub: FakeHub, folder: Path, part: str, status: int, text: str):
    hub.refusal = (part, status, text)
    with raises(BadHub) as caught:
        upload(folder, "ada/cat", private=False)
    assert "\n" not in str(caught.value) and hub.commits == 0


def test_a_card_that_the_hub_refuses_is_told(hub: FakeHub, folder: Path):
    (folder / "README.md").write_text("---\ntags: []\n---\n")
    with raises(BadHub):
        upload(folder, "ada/cat", private=False)
    assert hub.commits == 0


def test_a_hub_that_is_away_or_switched_off_is_told(hub: FakeHub, folder: Path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with raises(BadHub):
        upload(folder, "ada/cat", private=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with raises(BadHub):
        upload(folder, "ada/cat", private=False)
