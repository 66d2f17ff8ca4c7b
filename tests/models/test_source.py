import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from limner.errors import BadBase
from limner.models import source
from limner.models.registry import hub_bases
from limner.models.source import ALLOW_PATTERNS, Source, download_command, locate
from messages import raises


@pytest.fixture
def copied(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copied"))


def test_a_base_of_an_unknown_user_is_told_in_a_line():
    with pytest.raises(BadBase, match="~nobody-of-this-name/x"):
        locate("~nobody-of-this-name/x", folders={})


def test_a_folder_is_found_and_named_without_its_path(tiny_base: Path, monkeypatch: pytest.MonkeyPatch):
    found = locate(str(tiny_base), folders={})
    assert (found.name, found.index["_class_name"]) == ("tiny-flux", "FluxPipeline")
    assert found.facts["resolution"] == 32
    assert found.config("transformer")["in_channels"] == 16
    assert found.config("scheduler")["shift"] == 1.0
    monkeypatch.chdir(tiny_base)
    assert locate(".", folders={}).name == "tiny-flux"


def test_a_base_of_the_package_comes_before_a_folder_of_its_name(tiny_base: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert locate("mine", folders={"mine": tiny_base}).root == tiny_base


def test_facts_are_optional(copied: Path):
    (copied / "limner.json").unlink()
    assert locate(str(copied), folders={}).facts == {}


@pytest.mark.parametrize("name", ["glyhp", "a/b/c", "./no/such", "/no/such", "~/no/such"])
def test_an_unknown_name_is_told_with_the_known_ones(name: str):
    with raises(BadBase):
        locate(name, folders={"mine": Path("x")})


def test_a_folder_that_is_no_base(tmp_path: Path):
    with raises(BadBase):
        locate(str(tmp_path), folders={})


def test_a_modular_index_says_what_the_usual_one_would(copied: Path):
    """diffusers has there where a part is, too, and a hint of its class where it was saved unloaded."""
    usual = locate(str(copied), folders={}).index
    place = {"pretrained_model_name_or_path": "own/er", "subfolder": "vae", "type_hint": usual["vae"]}
    entries = {
        key: [*entry, place] if isinstance(entry, list) and all(entry) else entry
        for key, entry in usual.items()
    }
    entries["vae"] = [None, None, place]
    (copied / "model_index.json").unlink()
    (copied / "modular_model_index.json").write_text(json.dumps(entries))
    source = locate(str(copied), folders={})
    assert source.index == usual and source.parts_listed
    shutil.rmtree(copied / "vae")
    with raises(BadBase):
        source.weights("vae")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
@pytest.mark.parametrize("file", ["model_index.json", "vae/config.json", "limner.json"])
def test_a_damaged_config_is_told(copied: Path, text: str, file: str):
    (copied / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(BadBase, match=r"(cannot be read|holds no JSON object).*again"):
        found = locate(str(copied), folders={})
        assert found.index
        found.config("vae")


def test_a_missing_config_is_told(copied: Path):
    (copied / "scheduler" / "scheduler_config.json").unlink()
    with raises(BadBase):
        locate(str(copied), folders={}).config("scheduler")


def break_(copied: Path, what: str) -> None:
    match what:
        case "folder":
            shutil.rmtree(copied / "vae")
        case "weights":
            (copied / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        case "config":
            (copied / "vae" / "config.json").unlink()
        case "pickled":
            (copied / "vae" / "diffusion_pytorch_model.safetensors").rename(copied / "vae" / "model.bin")
        case "empty index":
            (copied / "vae" / "diffusion_pytorch_model.safetensors").unlink()
            (copied / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")


MISSING = {
    "folder": r"the folder vae/ is missing",
    "weights": r"vae/ lacks diffusion_pytorch_model\.safetensors",
    "config": r"vae/ lacks config\.json",
    "pickled": r"pickled weights only.*never unpickles",
    "empty index": r"vae/ lacks diffusion_pytorch_model\.safetensors\.index\.json",
}


@pytest.mark.parametrize("what", sorted(MISSING))
def test_missing_parts_are_named(copied: Path, what: str):
    break_(copied, what)
    found = locate(str(copied), folders={})
    for use in (found.weights, lambda part: found.fingerprint(part, "fp32")):
        with pytest.raises(BadBase, match=f"^copied: .*{MISSING[what]}"):
            use("vae")


def test_an_empty_tokenizer_is_told(copied: Path):
    for path in (copied / "tokenizer").iterdir():
        path.unlink()
    with raises(BadBase):
        locate(str(copied), folders={}).weights("tokenizer")


@pytest.mark.parametrize(
    "facts", ['{"resolution": "big"}', '{"resolution": -5}', '{"text_length": 1e9}', '{"guidance": null}']
)
def test_facts_that_mean_nothing_are_told(copied: Path, facts: str):
    (copied / "limner.json").write_text(facts)
    with raises(BadBase):
        locate(str(copied), folders={})


def test_a_tokenizer_that_links_to_itself_is_told(copied: Path):
    file = copied / "tokenizer" / "tokenizer.json"
    file.unlink()
    file.symlink_to(file.name)
    with raises(BadBase):
        locate(str(copied), folders={}).fingerprint("tokenizer", "")


def test_the_remedy_for_a_base_of_the_hub_is_its_download(copied: Path):
    break_(copied, "weights")
    for name in ("flux-dev", "black-forest-labs/FLUX.1-dev"):
        with raises(BadBase):
            Source(copied, name).weights("vae")


def test_weights_in_shards(copied: Path):
    folder = copied / "transformer"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "a.safetensors")
    names = {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    found = locate(str(copied), folders={})
    with raises(BadBase):
        found.weights("transformer")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    assert [path.name for path in found.weights("transformer")] == ["a.safetensors", "b.safetensors"]


def test_a_fingerprint_follows_the_bytes_not_the_place(tiny_base: Path, copied: Path):
    one, other = (locate(str(folder), folders={}) for folder in (tiny_base, copied))
    for part in ("vae", "tokenizer", "text_encoder"):
        assert one.fingerprint(part, "fp32") == other.fingerprint(part, "fp32")
        assert str(tiny_base) not in one.fingerprint(part, "fp32")
    config = copied / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.5", "0.25"))
    assert one.fingerprint("vae", "fp32") != other.fingerprint("vae", "fp32")
    (copied / "tokenizer" / ".DS_Store").write_text("x")
    assert one.fingerprint("tokenizer", "") == other.fingerprint("tokenizer", "")


def test_large_files_are_hashed_once(copied: Path, monkeypatch: pytest.MonkeyPatch):
    weights = copied / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + bytes(2**20))
    found, hashed = locate(str(copied), folders={}), []
    true = source.sha256_file
    monkeypatch.setattr(source, "sha256_file", lambda path: hashed.append(path.name) or true(path))
    first = found.fingerprint("vae", "fp32")
    assert found.fingerprint("vae", "fp32") == first
    assert hashed.count(weights.name) == 1
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert found.fingerprint("vae", "fp32") != first
    assert hashed.count(weights.name) == 2


def test_a_torn_note_of_a_hash_is_made_anew(copied: Path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    weights = copied / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + bytes(2**20))
    found = locate(str(copied), folders={})
    first = found.fingerprint("vae", "fp32")
    (note,) = (tmp_path / "home" / "limner" / "fingerprints").iterdir()
    for torn in (b"", b"abc", b"\xff\xfe", note.read_bytes()[:30]):
        note.write_bytes(torn)
        assert found.fingerprint("vae", "fp32") == first


def test_a_blob_of_the_hubs_cache_is_named_by_its_hash(tmp_path: Path):
    name = "ab" * 32
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / name).write_bytes(b"whatever")
    (tmp_path / "link").symlink_to(tmp_path / "blobs" / name)
    assert source.content(tmp_path / "link") == name


def hub(answer: Callable[[], str]) -> Callable[..., str]:
    """A snapshot_download that has nothing on the disk and answers ``answer`` over the network."""

    def snapshot_download(repo_id: str, *, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        return answer()

    return snapshot_download


def failing(kind: type[Exception]) -> Callable[[], str]:
    def answer() -> str:
        if issubclass(kind, errors.HfHubHTTPError):
            headers: Any = {}
            raise kind("no", response=SimpleNamespace(headers=headers, status_code=403, request=None))  # pyright: ignore
        raise kind("no")

    return answer


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        (
            "flux-dev",
            errors.GatedRepoError,
            r"FLUX\.1-dev is gated: accept its licence.*hf auth login.*hf download",
        ),
        ("own/er", errors.GatedRepoError, r"own/er is gated: `hf download own/er"),
        ("own/er", errors.RepositoryNotFoundError, r"hub has no own/er, or it is private"),
        (
            "flux-schnell",
            errors.LocalEntryNotFoundError,
            r"\(Apache-2.0\) is not on this disk.*With network: `hf download black-fo",
        ),
        ("flux-dev", errors.OfflineModeIsEnabled, r"cannot be reached. With network: accept its licence"),
        ("own/er", ConnectionError, r"cannot be reached"),
        ("own/er", errors.HTTPError, r"cannot be reached"),
        ("own/er", errors.HfHubHTTPError, r"cannot be reached"),
        ("own/er", errors.HFValidationError, r"no valid hub id"),
    ],
)
def test_what_the_hub_refuses_is_told_with_the_remedy(monkeypatch, name: str, error, told: str):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub(failing(error)))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", page())
    with pytest.raises(BadBase, match=told) as caught:
        locate(name, folders={})
    assert "\n" not in str(caught.value)


def page(**facts: Any) -> Callable[..., Any]:
    """What the hub knows of a base: its files with their sizes, its licence, its gate."""
    sizes = {
        "model_index.json": 500,
        "unet/diffusion_pytorch_model.safetensors": 5_000_000_000,
        "unet/diffusion_pytorch_model.fp16.safetensors": 2_500_000_000,
        "sd_xl_base_1.0.safetensors": 7_000_000_000,
        "safety_checker/model.safetensors": 1_000_000_000,
    }
    files = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
    known = {"siblings": files, "gated": False, "card_data": {"license": "mit"}, **facts}
    return lambda api, hub_id, *, files_metadata: SimpleNamespace(**known)


@pytest.mark.parametrize(
    ("name", "facts", "told"),
    [
        (
            "sdxl",
            {},
            "Fetching stabilityai/.*base-1.0: 5.0 GB in 2 files; licence: CreativeML",
        ),
        (
            "flux-dev",
            {},
            r"licence: FLUX.1 \[dev\] Non-Commercial .*; gated: its licence must be accepted",
        ),
        ("own/er", {}, "Fetching own/er: .*; licence: mit.$"),
        ("own/er", {"gated": "manual", "card_data": None}, "licence: no licence named on its page; gated"),
    ],
)
def test_licence_size_and_gate_are_said_before_a_download(monkeypatch, tiny_base: Path, name, facts, told):
    heard: list[str] = []

    def answer() -> str:
        assert heard, "the download began before a word was said"
        return str(tiny_base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub(answer))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", page(**facts))
    locate(name, folders={}, tell=heard.append)
    assert len(heard) == 1 and re.search(told, heard[0]), heard


def test_offline_for_true():
    with raises(BadBase):
        locate("flux-dev", folders={})
    with raises(BadBase):
        locate("bad id/with spaces", folders={})


def test_what_the_hub_gives_is_opened(monkeypatch, tiny_base: Path):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub(lambda: str(tiny_base)))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", page())
    assert locate("flux-dev", folders={}).name == "flux-dev"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub(lambda: str(tiny_base.parent)))
    with raises(BadBase):
        locate("own/er", folders={})


def test_the_download_command_gets_just_what_is_read():
    from fnmatch import fnmatch

    command = download_command("own/er")
    assert command.startswith("hf download own/er --include '")
    patterns = command.split("'")[1::2]
    wanted = [
        "model_index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/merges.txt",
    ]
    patterns, unwanted = patterns[: len(ALLOW_PATTERNS)], patterns[len(ALLOW_PATTERNS) :]
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in wanted)
    assert not any(fnmatch(name, pattern) for name in wanted for pattern in unwanted)
    assert any(fnmatch("unet/diffusion_pytorch_model.fp16.safetensors", pattern) for pattern in unwanted)
    passed = ["flux1-dev.safetensors", "dev_grid.jpg", "vae/model.bin"]
    assert not any(fnmatch(name, pattern) for name in passed for pattern in patterns)
    assert all(base.licence for base in hub_bases().values())


def test_what_is_fetched_in_part_does_not_pass_for_the_whole(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[dict[str, Any]] = []

    def snapshot_download(repo_id: str, *, local_files_only: bool = False, **given: Any) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        asked.append(given)
        return str(tiny_base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(source, "announce", lambda *_: None)
    locate("flux-dev", folders={})
    locate("flux-dev", folders={}, skip_weights=("transformer", "vae"))
    whole, lent = asked
    assert whole["cache_dir"] is None and "transformer/*.safetensors" not in whole["ignore_patterns"]
    assert lent["cache_dir"].parts[-2:] == ("lenders", "transformer-vae")
    assert {"transformer/*.safetensors", "vae/*.safetensors"} <= set(lent["ignore_patterns"])
