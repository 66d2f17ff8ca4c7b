import shutil
from pathlib import Path

import pytest
import torch

from limner import run_folder
from limner.errors import BadCheckpoint
from limner.lora import file
from limner.recipe import toml
from limner.recipe.train import Lora
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import checkpoint
from limner.training.checkpoint import completed
from messages import raises
from small import Told, equal, weights, wish


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lora": {"rank": 3}}, r"another lora \(lora.rank was \d+, is 3\)"),
        ({"lora": {"targets": "attention"}}, "another lora"),
        ({"lora": {"text_encoders": ["text_encoder"]}}, "another lora"),
        (
            {"train": {"optimizer": "adafactor"}},
            r"another optimizer \(train.optimizer was adamw, is adafactor\)",
        ),
    ],
)
def test_what_a_run_is_cannot_change_and_the_run_stays_usable(tiny_base, photos, tmp_path, change, told):
    recipe = wish(tiny_base, photos, train={"steps": 2})
    train(recipe, tmp_path / "run", Told())
    with pytest.raises(BadCheckpoint, match=f"was trained with {told}.*--out"):
        train(wish(tiny_base, photos, **change), tmp_path / "run", Told())
    assert toml.load(tmp_path / "run" / "recipe.toml") == recipe
    assert train(toml.load(tmp_path / "run" / "recipe.toml"), tmp_path / "run", Told()).steps == 2


def test_another_base_is_refused_and_the_same_elsewhere_is_not(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos, train={"steps": 2}), tmp_path / "run", Told())
    moved = Path(shutil.copytree(tiny_base, tmp_path / "moved"))
    train(wish(moved, photos), tmp_path / "run", Told())
    from safetensors.torch import load_file, save_file

    path = moved / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(path).items()}, path)
    with raises(BadCheckpoint):
        train(wish(moved, photos), tmp_path / "run", Told())


def test_a_new_learning_rate_counts_when_a_run_goes_on(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos, train={"steps": 2}), tmp_path / "run", Told())
    before = weights(tmp_path / "run", 2)
    slow = wish(tiny_base, photos, train={"learning_rate": 1e-9, "weight_decay": 0.0})
    train(slow, tmp_path / "run", Told())
    after = weights(tmp_path / "run", 4)
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)


def test_what_shapes_the_weights_is_told_when_it_changes(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos, train={"steps": 2}), tmp_path / "run", Told())
    told = Told()
    changed = wish(tiny_base, photos, train={"steps": 3, "clip": 0.5}, data={"trigger": "zorb", "flip": True})
    train(changed, tmp_path / "run", told)
    assert (
        "The recipe has changed since step 2; going on by the new one "
        '(data.trigger was "", is "zorb"; data.flip was false, is true; train.clip was 1.0, is 0.5).'
    ) in told.lines
    again = Told()
    train(changed, tmp_path / "run", again)
    assert "The recipe has changed" not in again.text and "All 3 steps are done." in again.lines


def test_a_complete_run_is_not_said_to_be_of_another_recipe(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, train={"steps": 2})
    train(recipe, tmp_path / "run", Told())
    other = wish(tiny_base, photos, train={"steps": 2, "learning_rate": 0.5})
    with raises(BadCheckpoint):
        train(other, tmp_path / "run", Told())
    assert toml.load(tmp_path / "run" / "recipe.toml") == recipe
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    elsewhere = wish(tiny_base, moved, train={"steps": 2, "save_every": 1}, sample={"steps": 3})
    assert train(elsewhere, tmp_path / "run", Told()).steps == 2


def test_an_average_that_begins_late_begins_at_the_weights(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos, train={"steps": 2}), tmp_path / "run", Told())
    train(
        wish(tiny_base, photos, train={"steps": 3, "ema": 0.999, "learning_rate": 1e-9}),
        tmp_path / "run",
        Told(),
    )
    parts, _ = checkpoint.load(RunDir(tmp_path / "run").checkpoint_path(3))
    trained = [value for state in parts["weights"].values() for value in state.values()]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(trained, parts["average"], strict=True))


def test_the_average_is_what_is_exported(tiny_base, photos, tmp_path):
    done = train(wish(tiny_base, photos, train={"ema": 0.9}), tmp_path / "run", Told())
    parts, _ = checkpoint.load(RunDir(tmp_path / "run").checkpoint_path(4))
    exported = {
        tuple(f.up.shape) + (f.up.double().sum().item(),)
        for f in file.read(done.lora).components["transformer"].values()
    }
    averaged = {tuple(v.shape) + (v.double().sum().item(),) for v in parts["average"]}
    trained = {tuple(v.shape) + (v.double().sum().item(),) for v in parts["weights"]["transformer"].values()}
    assert exported <= averaged and not exported <= trained


def test_a_damaged_checkpoint_is_passed_over_and_said(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos)
    train(recipe, tmp_path / "run", Told())
    whole = weights(tmp_path / "run", 4)
    path = RunDir(tmp_path / "run").checkpoint_path(4)
    path.write_bytes(path.read_bytes()[:-9])
    told = Told()
    train(recipe, tmp_path / "run", told)
    assert "Checkpoint passed over" in told.text and "Going on from step 2." in told.lines
    assert path.with_name(path.name + ".damaged").exists()
    assert equal(weights(tmp_path / "run", 4), whole)


def test_with_no_whole_checkpoint_left_a_run_does_not_start_again_by_itself(tiny_base, photos, tmp_path):
    recipe, run = wish(tiny_base, photos), RunDir(tmp_path / "run")
    train(recipe, run.path, Told())
    kept = {path: path.read_bytes()[:-9] for _, path in run.checkpoints()}
    for path, data in kept.items():
        path.write_bytes(data)
    before = run.metrics()
    with pytest.raises(BadCheckpoint, match=r"None of the 2 checkpoints .* can be read.*step-000004.*--out"):
        train(recipe, run.path, Told())
    assert {path: path.read_bytes() for _, path in run.checkpoints()} == kept and run.metrics() == before


@pytest.mark.parametrize("name", ["step-000004.pt", "pytorch_model.bin"])
def test_another_tools_checkpoint_stops_the_run(tiny_base, photos, tmp_path, name):
    recipe, run = wish(tiny_base, photos), RunDir(tmp_path / "run")
    run.checkpoints_path.mkdir(parents=True)
    (run.checkpoints_path / name).write_bytes(b"PK")
    with pytest.raises(BadCheckpoint, match=f"{name} is no checkpoint of Limner.*Remove it"):
        train(recipe, run.path, Told())


def test_a_checkpoint_from_before_a_key_was_there_counts_as_its_default():
    now = {"method": "lora", "inversion": [], "adapter": "", "optimizer": "adamw"}
    now["lora"] = Lora().model_dump(mode="json")
    before = {"lora": {"rank": 16}, "optimizer": "adamw"}
    assert completed(before) == now
    assert completed({**before, "lora": {"rank": 4}}) != now
    assert completed({"lora": None})["lora"] is None


def test_a_run_of_an_older_version_goes_on_to_the_same_end(tiny_base, photos, tmp_path):
    recipe, run = wish(tiny_base, photos), RunDir(tmp_path / "run")
    train(recipe, run.path, Told())
    whole = weights(run.path, 4)
    parts, facts = checkpoint.load(run.checkpoint_path(2))
    for key in ("method", "weights", "moments", "products"):
        del facts[key]
    del facts["lora"]["conv_rank"]
    checkpoint.save(run.checkpoint_path(2), parts, facts)
    run.checkpoint_path(4).unlink()
    told = Told()
    train(recipe, run.path, told)
    assert "Going on from step 2." in told.lines
    assert equal(weights(run.path, 4), whole)


def test_measurements_are_on_the_disk_before_the_checkpoint_that_they_belong_to(
    tiny_base, photos, tmp_path, monkeypatch
):
    """A cut of power takes what was not synced: no checkpoint may outlive its rows."""
    run, synced, saved = RunDir(tmp_path / "run"), {}, []
    true_sync, true_save = run_folder.sync_file, checkpoint.save

    def sync(path):
        true_sync(path)
        synced[path] = path.read_bytes()

    def save(path, parts, facts):
        rows = synced.get(run.metrics_path, b"")
        assert rows == run.metrics_path.read_bytes()
        saved.append((facts["step"], b'"step": %d,' % facts["step"] in rows))
        true_save(path, parts, facts)

    monkeypatch.setattr(run_folder, "sync_file", sync)
    monkeypatch.setattr(checkpoint, "save", save)
    train(wish(tiny_base, photos, train={"steps": 2, "save_every": 1}), run.path, Told())
    assert saved == [(1, True), (2, True)]
