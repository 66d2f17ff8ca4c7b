import types

import huggingface_hub
import pytest
from huggingface_hub import constants, errors


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one base of two files, and what was asked of it."""
    home = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    sizes = {"model_index.json": 2, "unet/diffusion_pytorch_model.safetensors": 5_000_000_000}

    def model_info(self, repo_id, **_):
        siblings = [types.SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
        return types.SimpleNamespace(gated=False, card_data={}, siblings=siblings)

    def snapshot_download(repo_id, *, local_files_only=False, **_):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        folder = home / "snapshot"
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
        return str(folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return home


def free(monkeypatch, size):
    usage = types.SimpleNamespace(total=size, used=0, free=size)
    monkeypatch.setattr("limner.files.shutil.disk_usage", lambda path: usage)


def test_size_and_licence_are_told_and_the_folder_is_the_result(limner, hub, monkeypatch):
    free(monkeypatch, 10_000_000_000)
    monkeypatch.setattr("limner.models.source.require_plain", lambda root, index: None)
    done = limner("fetch", "sdxl")
    assert done.status == 0, done.err
    assert "5.0 GB in 2 files; licence: CreativeML Open RAIL++-M." in done.err
    assert done.out == f"sdxl is here: {hub / 'snapshot'}\n"


def test_a_disk_without_room_is_told_before_anything_is_fetched(limner, hub, monkeypatch):
    free(monkeypatch, 1_000_000_000)
    done = limner("fetch", "sdxl")
    assert done.status == 1
    assert "needs 5.0 GB and 1.0 GB are free on the disk of" in done.err
    assert not hub.exists()


def test_what_comes_with_the_package_is_here_already(limner, hub):
    done = limner("fetch", "glyph")
    assert done.status == 0 and done.out.startswith("glyph is here: ")
    assert not hub.exists()


def test_an_unknown_base_is_wrong_usage(limner):
    done = limner("fetch", "flux-pro")
    assert done.status == 2
    assert "no known name" in done.err
