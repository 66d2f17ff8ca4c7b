"""What a run wants of the disk."""

import shutil
from dataclasses import replace

import pytest
from huggingface_hub import constants

from blueprints import flux
from limner.files import require_space
from limner.models.bundled import known, weight_bytes
from limner.models.source import locate
from limner.nn.memory.plan import Plan
from limner.planning.disk import fetched_bytes, here, mapped_bytes
from limner.planning.planner import plan
from limner.recipe import Recipe
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import state
from limner.training.export import model_steps
from small import Told, wish


def recipe(**train):
    return Recipe(base="sdxl", train=Recipe().train.model_copy(update=train))


def test_no_more_checkpoints_are_counted_than_a_run_can_have():
    assert recipe(steps=1000, save_every=250).train.checkpoints_written == 4
    assert recipe(steps=1000, save_every=100, keep=3).train.checkpoints_held == 5
    assert recipe(steps=1000, save_every=1000, keep=3).train.checkpoints_held == 2
    assert recipe(steps=10, save_every=250, keep=1).train.checkpoints_held == 2


def test_a_base_on_this_disk_is_weighed_and_one_that_is_not_is_none(tiny_base, tmp_path):
    source = locate(str(tiny_base), folders={})
    files = [*tiny_base.glob("*/*.safetensors")]
    size = sum(path.stat().st_size for path in files)
    found = source.bytes_on_disk
    assert found and size <= found < size + 10**7
    assert known("sdxl").bytes_on_disk is None
    lacking = tmp_path / "lacking"
    shutil.copytree(tiny_base, lacking)
    next(lacking.glob("vae/*.safetensors")).unlink()
    assert locate(str(lacking), folders={}).bytes_on_disk is None


def test_what_the_cache_of_the_hub_holds_is_not_fetched_again(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("limner.planning.disk.hub_id_of", lambda name: "owner/name")
    source = known("sdxl")
    assert here(source) is source
    home = tmp_path / "models--owner--name"
    shutil.copytree(tiny_base, home / "snapshots" / "abc")
    assert here(source) is source, "no ref says which"
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    found = here(source)
    assert (found.root, found.bytes_on_disk) == (
        home / "snapshots" / "abc",
        locate(str(tiny_base), folders={}).bytes_on_disk,
    )
    (home / "snapshots" / "abc" / "model_index.json").unlink()
    assert here(source) is source, "configs were fetched in part"


def test_of_a_base_in_one_file_only_what_it_lacks_is_fetched(tmp_path, monkeypatch):
    from limner.planning import disk

    profile, source = replace(flux(512), download=weight_bytes("flux-dev")), known("flux-dev")
    assert fetched_bytes("flux-dev", source, profile) == profile.download
    file = tmp_path / "one.safetensors"
    file.touch()
    parts = {"transformer": ""}
    monkeypatch.setattr(disk, "look", lambda path: type("Single", (), {"parts": parts}))
    lacked = fetched_bytes(str(file), source, profile)
    assert lacked == pytest.approx(9.9e9, rel=0.02), "T5, CLIP and the autoencoder"
    parts |= {"vae": "", "text_encoder": "", "text_encoder_2": ""}
    assert fetched_bytes(str(file), source, profile) == 0


def test_weights_that_memory_is_short_for_lie_on_the_disk():
    profile = flux(512)
    away = Plan(compute="bf16", weights="bf16", swapped_blocks=57)
    assert mapped_bytes(profile, away) == 0
    every = mapped_bytes(profile, replace(away, mmap_weights=True))
    assert 22e9 < every < 24.5e9
    assert mapped_bytes(profile, replace(away, mmap_weights=True, weights="int8")) < every / 1.5


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_asks_for_what_the_plan_says(method, tiny_base, photos, tmp_path, monkeypatch):
    """The same figures, and those are what lies there in the end, headers left aside."""
    asked = {}

    def look(folder, size, what):
        asked[what] = size
        return require_space(folder, size, what)

    monkeypatch.setattr("limner.training.checkpoint.require_space", look)
    how = {"method": method, "steps": 5, "save_every": 1, "keep": 2, "learning_rate": 1e-4}
    made = wish(tiny_base, photos, train=how, lora={"rank": 16})
    disk = plan(made, Told()).disk
    run = RunDir(tmp_path / "run")
    most = []
    saving = state.checkpoint.save

    def save(path, *rest):
        size = saving(path, *rest)
        most.append(sum(each.stat().st_size for _, each in run.checkpoints()))
        return size

    monkeypatch.setattr(state.checkpoint, "save", save)
    train(made, run.path, Told())
    (before,) = [size for what, size in asked.items() if what.startswith("Keeping 4 checkpoints")]
    assert before == disk["checkpoints"] + disk["loras"] + disk["model"]
    assert max(most) <= disk["checkpoints"] * 1.25, "headers are large beside a tiny LoRA"
    assert disk["download"] == 0 and disk["mapped"] == 0
    if method == "full":
        assert model_steps(run) == 5
        there = sum(each.stat().st_size for each in run.model_path.glob("*/*.safetensors"))
        assert there == pytest.approx(disk["model"], rel=0.25)
        assert max(most) > disk["checkpoints"] * 0.7
