import json
import os
import shutil
import signal
import sys
from functools import partial

import pytest
import torch

from limner.errors import BadCheckpoint, BadRecipe, DiskFull, Diverged, DoesNotFit, RunBusy, Stopped
from limner.events import Done, to_json
from limner.lora import file
from limner.recipe import toml
from limner.run_folder import RunDir
from limner.runs import train
from limner.training import train as module
from messages import raises
from small import Told, equal, losses, weights, wish

SHOWN = {"sample": {"every": 2, "prompts": ["zorb"], "steps": 1}}


def signalling(number: int, at: int):
    """A listener that sends this process a signal at a step."""

    class Sending(Told):
        def progress(self, label, total, start=0):
            if label != "Training":
                return super().progress(label, total, start)
            said = self

            class Bar:
                done = 0

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    return None

                def advance(self, n=1, note=""):
                    self.done += n
                    said.counts["Training"] = [self.done, total]
                    if self.done == at:
                        signal.raise_signal(number)

            return Bar()

    return Sending()


def test_what_a_run_leaves(tiny_base, photos, tmp_path):
    recipe, told = wish(tiny_base, photos, **SHOWN, data={"validation_count": 2}), Told()
    done = train(recipe, tmp_path / "run", told)
    run = RunDir(tmp_path / "run")
    assert isinstance(done, Done) and (done.lora, done.report, done.steps) == (
        run.lora_path,
        run.report_path,
        4,
    )
    rows = run.metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert ["held_out" in row for row in rows] == [True, False, True, False, True]
    assert all(set(row) >= {"loss", "norm", "learning_rate", "seconds", "time"} for row in rows[1:])
    assert done.validation_loss == rows[-1]["held_out"] and done.loss == pytest.approx(
        sum(r["loss"] for r in rows[1:]) / 4
    )
    assert list(run.samples()) == [0, 2, 4] and run.sheet_path.exists() and run.report_path.exists()
    assert run.prompts() == ["zorb"] and toml.load(run.recipe_path) == recipe
    assert [step for step, _ in run.checkpoints()] == [4, 2]
    assert told.counts["Training"] == [4, 4]
    assert any(
        "4 images, 5 views" in line and "validation loss on 2 images (held out)" in line
        for line in told.lines
    )
    assert file.read(run.lora_path).metadata["ss_steps"] == "4"


def test_a_finished_run_is_left_as_it_is(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, **SHOWN)
    train(recipe, tmp_path / "run", Told())
    run = RunDir(tmp_path / "run")
    kept = {
        path: path.read_bytes()
        for path in (run.lora_path, run.metrics_path, *(p for _, p in run.checkpoints()))
    }
    told = Told()
    train(recipe, tmp_path / "run", told)
    assert {path: path.read_bytes() for path in kept} == kept
    assert "All 4 steps are done." in told.lines and "Training" not in told.counts


def test_zero_steps_leave_the_base_model(tiny_base, photos, tmp_path):
    done = train(wish(tiny_base, photos, train={"steps": 0}), tmp_path / "run", Told())
    factors = file.read(done.lora).components["transformer"].values()
    assert all(not each.up.any() and each.down.any() for each in factors)
    assert losses(tmp_path / "run") == [(0, None, done.validation_loss)] and done.steps == 0


def test_training_teaches(tiny_base, photos, tmp_path):
    done = train(
        wish(tiny_base, photos, train={"steps": 25, "learning_rate": 1e-2}, lora={"rank": 8}),
        tmp_path / "run",
        Told(),
    )
    rows = losses(tmp_path / "run")
    assert done.validation_loss is not None and done.validation_loss < 0.9 * rows[0][2]


def test_a_longer_wish_goes_on_and_a_shorter_one_is_refused(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos, train={"steps": 2}), tmp_path / "run", Told())
    train(wish(tiny_base, photos), tmp_path / "run", Told())
    train(wish(tiny_base, photos), tmp_path / "whole", Told())
    assert losses(tmp_path / "run")[-2:] == losses(tmp_path / "whole")[-2:]
    assert equal(weights(tmp_path / "run", 4), weights(tmp_path / "whole", 4))
    assert file.read(tmp_path / "run" / "lora.safetensors").metadata["ss_steps"] == "4"
    with raises(BadCheckpoint):
        train(wish(tiny_base, photos, train={"steps": 3}), tmp_path / "run", Told())


def test_a_stale_export_is_replaced(tiny_base, photos, tmp_path):
    """Killed between the last checkpoint and the export, while the file of a shorter run was there."""
    train(wish(tiny_base, photos, train={"steps": 2}), tmp_path / "run", Told())
    old = (tmp_path / "run" / "lora.safetensors").read_bytes()
    train(wish(tiny_base, photos), tmp_path / "run", Told())
    (tmp_path / "run" / "lora.safetensors").write_bytes(old)
    train(wish(tiny_base, photos), tmp_path / "run", Told())
    assert file.read(tmp_path / "run" / "lora.safetensors").metadata["ss_steps"] == "4"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"lora": {"targets": ["attn.to_qq"]}}, "no linear layer or convolution ends in 'attn.to_qq'"),
        ({"train": {"optimizer": "prodigy"}}, "package prodigyopt is not installed"),
        ({"track": {"with": ["wandb"]}}, "wandb.*not installed"),
    ],
    ids=["targets", "optimizer", "tracker"],
)
def test_what_can_only_fail_is_told_before_anything_is_computed(
    tiny_base, photos, tmp_path, monkeypatch, sections, message
):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    monkeypatch.setattr(module, "fill_cache_with_fallback", None)
    if "train" in sections:
        sections = {"train": {**sections["train"], "learning_rate": 1.0}}
    with pytest.raises(BadRecipe, match=message):
        train(wish(tiny_base, photos, **sections), tmp_path / "run", Told())


def test_the_samples_that_a_kill_cut_short_are_made_up_for(tiny_base, photos, tmp_path):
    recipe = wish(tiny_base, photos, **SHOWN)
    train(recipe, tmp_path / "run", Told())
    run = RunDir(tmp_path / "run")
    good = run.sample_path(4, 0).read_bytes()
    shutil.rmtree(run.sample_path(4, 0).parent)
    train(recipe, tmp_path / "run", Told())
    assert run.sample_path(4, 0).read_bytes() == good


def test_new_prompts_are_painted_and_old_pictures_do_not_pass_for_them(tiny_base, photos, tmp_path):
    prompts = {"sample": {"every": 2, "prompts": ["zorb", "a moon"], "steps": 1}}
    train(wish(tiny_base, photos, **prompts, train={"steps": 2}), tmp_path / "run", Told())
    changed, told = {"sample": {"every": 2, "prompts": ["zorb", "a car"], "steps": 1}}, Told()
    train(wish(tiny_base, photos, **changed), tmp_path / "run", told)
    run = RunDir(tmp_path / "run")
    assert {step: list(taken) for step, taken in run.samples().items()} == {0: [0], 2: [0, 1], 4: [0, 1]}
    assert run.prompts() == ["zorb", "a car"] and len(list(run.earlier_path.iterdir())) == 2
    assert any("prompts of the samples have changed: 2 pictures" in line for line in told.lines)


def test_a_file_for_another_tool_that_is_not_there_is_written(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos), tmp_path / "run", Told())
    run = RunDir(tmp_path / "run")
    weights_before = file.read(run.lora_path).components
    recipe = wish(tiny_base, photos, export={"for": ["diffusers", "comfyui"]})
    for _ in range(2):  # asked for afterwards, or lost to a kill between the two files
        train(recipe, tmp_path / "run", Told())
        assert file.read(run.lora_path_for("comfyui")).metadata["ss_steps"] == "4"
        run.lora_path_for("comfyui").unlink()
    assert file.read(run.lora_path).components.keys() == weights_before.keys()


def test_a_signal_does_not_wait_for_samples(tiny_base, photos, tmp_path, monkeypatch):
    def painting(*_):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the signal was waited for")

    recipe = wish(tiny_base, photos, sample={"every": 3, "prompts": ["zorb"], "steps": 1})
    begin = module._begin
    monkeypatch.setattr(
        module,
        "_begin",
        lambda *given: (begin(*given), monkeypatch.setattr(module.TrainableModel, "sample", painting)),
    )
    with raises(Stopped):
        train(recipe, tmp_path / "run", Told())
    monkeypatch.undo()
    run = RunDir(tmp_path / "run")
    assert run.checkpoint_path(3).exists() and list(run.samples()) == [0]
    train(recipe, tmp_path / "run", Told())
    assert list(run.samples()) == [0, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_tells_how_to_go_on(tiny_base, photos, tmp_path, number):
    recipe = wish(tiny_base, photos)
    before = signal.getsignal(number)
    with raises(Stopped):
        train(recipe, tmp_path / "run", signalling(number, at=3))
    assert signal.getsignal(number) == before
    run = RunDir(tmp_path / "run")
    assert run.checkpoint_path(3).exists() and file.read(run.lora_path).metadata["ss_steps"] == "3"
    train(recipe, tmp_path / "run", Told())
    train(recipe, tmp_path / "whole", Told())
    assert equal(weights(tmp_path / "run", 4), weights(tmp_path / "whole", 4))


def test_a_signal_before_training_stops_at_once(tiny_base, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "resolve", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    with raises(Stopped):
        train(wish(tiny_base, photos), tmp_path / "run", Told())
    with RunDir(tmp_path / "run").lock():
        pass


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_saved(
    tiny_base, photos, tmp_path, monkeypatch
):
    true = module.TrainableModel.losses
    monkeypatch.setattr(
        module.TrainableModel,
        "losses",
        lambda self, step: (loss * (float("nan") if step == 3 else 1) for loss in true(self, step)),
    )
    with raises(Diverged):
        train(wish(tiny_base, photos), tmp_path / "run", Told())
    run = RunDir(tmp_path / "run")
    assert [step for step, _ in run.checkpoints()] == [2] and [row["step"] for row in run.metrics()] == [
        0,
        1,
        2,
        3,
    ]


def test_old_checkpoints_go_and_the_best_stays(tiny_base, photos, tmp_path, monkeypatch):
    measured = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(module.TrainableModel, "validation_losses", lambda _: [next(measured)])
    train(wish(tiny_base, photos, train={"steps": 5, "save_every": 1, "keep": 2}), tmp_path / "run", Told())
    assert [step for step, _ in RunDir(tmp_path / "run").checkpoints()] == [5, 4, 1]


def test_evaluating_more_often_than_saving(tiny_base, photos, tmp_path):
    train(
        wish(tiny_base, photos, train={"steps": 3, "save_every": 9, "validation_every": 1}),
        tmp_path / "run",
        Told(),
    )
    assert all(held_out is not None for _, _, held_out in losses(tmp_path / "run"))
    assert [step for step, _ in RunDir(tmp_path / "run").checkpoints()] == [3]


def test_a_full_disk_is_told_before_the_first_step(tiny_base, photos, tmp_path, monkeypatch):
    train(wish(tiny_base, photos, train={"steps": 0}), tmp_path / "other", Told())  # the cache is there
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    with pytest.raises(DiskFull, match="Keeping 3 checkpoints and what is exported needs"):
        train(wish(tiny_base, photos), tmp_path / "run", Told())
    assert not RunDir(tmp_path / "run").metrics_path.exists()


def test_a_kill_between_a_save_and_the_deleting_leaves_no_checkpoint_too_many(
    tiny_base, photos, tmp_path, monkeypatch
):
    recipe = wish(tiny_base, photos, train={"steps": 3, "save_every": 1, "keep": 1})
    train(recipe, tmp_path / "whole", Told())
    run, true = RunDir(tmp_path / "run"), module.checkpoint.retain

    def killed(*given, **named):
        if run.checkpoint_path(3).exists():
            raise KeyboardInterrupt
        return true(*given, **named)

    monkeypatch.setattr(module.checkpoint, "retain", killed)
    with pytest.raises(Stopped):
        train(recipe, run.path, Told())
    monkeypatch.undo()
    wanted = [step for step, _ in RunDir(tmp_path / "whole").checkpoints()]
    assert len(run.checkpoints()) > len(wanted)
    train(recipe, run.path, Told())
    assert [step for step, _ in run.checkpoints()] == wanted


def test_two_runs_in_one_folder_are_refused(tiny_base, photos, tmp_path):
    with RunDir(tmp_path / "run").lock(), pytest.raises(RunBusy, match=f"process {os.getpid()}"):
        train(wish(tiny_base, photos), tmp_path / "run", Told())


def test_images_left_out_are_named(tiny_base, photos, tmp_path):
    (photos / "torn.png").write_bytes(b"\x89PNG")
    told = Told()
    train(wish(tiny_base, photos, train={"steps": 0}), tmp_path / "run", told)
    assert any(line.startswith("Left out: torn.png: ") for line in told.lines)


def test_targets_that_match_nothing_are_refused(tiny_base, photos, tmp_path):
    with raises(BadRecipe):
        train(wish(tiny_base, photos, lora={"targets": ["attn.nothing"]}), tmp_path / "run", Told())


def test_trackers_get_the_rows(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos, track={"with": ["tensorboard"]}), tmp_path / "run", Told())
    assert list((tmp_path / "run" / "track").rglob("events.out.tfevents*"))


def test_a_guided_base_is_trained_and_painted(photos, tmp_path):
    from tiny import save_flux

    base = save_flux(tmp_path / "dev", guided=True)
    recipe = wish(
        base,
        photos,
        sample={"every": 0, "prompts": ["zorb"], "steps": 1},
        train={"steps": 2, "guidance": 3.5},
    )
    done = train(recipe, tmp_path / "run", Told())
    assert list(RunDir(tmp_path / "run").samples()) == [0, 2]
    assert file.read(done.lora).metadata["modelspec.architecture"] == "flux-1-dev/lora"
    assert json.loads(json.dumps(to_json(done)))["steps"] == 2


def test_predicted_stands_beside_measured(tiny_base, photos, tmp_path):
    train(wish(tiny_base, photos, train={"steps": 1}), tmp_path / "run", Told())
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["fits"] and plan["peak_bytes"]["train"] > 0
    assert RunDir(tmp_path / "run").metrics()[-1]["bytes"] > plan["reserved_bytes"]


def test_a_run_that_fits_nowhere_is_told_before_anything_is_computed(tiny_base, photos, tmp_path):
    with pytest.raises(DoesNotFit):
        train(wish(tiny_base, photos, limits={"vram": "1KB"}), tmp_path / "run", Told())
    assert not RunDir(tmp_path / "run").metrics()


def test_products_in_8_bits_teach_and_a_run_that_stops_goes_on_by_them_to_the_bit(
    tiny_base, photos, tmp_path
):
    eight, often = {"matmul_precision": "8bit"}, {"steps": 24, "save_every": 12}
    whole = wish(tiny_base, photos, limits=eight, train=often)
    train(whole, tmp_path / "whole", Told())
    train(wish(tiny_base, photos, limits=eight, train=often | {"steps": 12}), tmp_path / "parts", Told())
    train(wish(tiny_base, photos, train=often), tmp_path / "parts", Told())  # the run keeps its products
    assert equal(weights(tmp_path / "whole", 24), weights(tmp_path / "parts", 24))
    plans = [json.loads((tmp_path / name / "plan.json").read_text())["plan"] for name in ("whole", "parts")]
    assert [plan["matmul_precision"] for plan in plans] == ["8bit", "8bit"]
    assert plans[0]["weights"] in ("int8", "fp8")
    seen = [loss for _, loss, _ in losses(tmp_path / "whole") if loss is not None]
    held = [held for _, _, held in losses(tmp_path / "whole") if held is not None]
    assert held[-1] < held[0] and len(seen) == 24


def test_a_device_without_products_in_8_bits_is_told_before_a_base_is_fetched(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("limner.training.train.resolve", None)
    apart = wish("some/base", photos, limits={"matmul_precision": "8bit", "device": "mps"})
    with raises(BadRecipe):
        train(apart, tmp_path / "run", Told())


def test_a_run_in_fp16_goes_on_to_the_bit_and_tells_the_steps_that_overflowed(
    tiny_base, photos, tmp_path, monkeypatch
):
    scaler = partial(torch.amp.GradScaler, init_scale=2.0**40, growth_interval=2)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    limits, listener = {"compute_dtype": "fp16"}, Told()
    train(wish(tiny_base, photos, limits=limits), tmp_path / "whole", listener)
    train(wish(tiny_base, photos, limits=limits, train={"steps": 3}), tmp_path / "parts", Told())
    train(wish(tiny_base, photos, limits=limits), tmp_path / "parts", Told())
    rows, resumed = (RunDir(tmp_path / name).metrics()[1:] for name in ("whole", "parts"))
    assert equal(weights(tmp_path / "whole", 4), weights(tmp_path / "parts", 4))
    assert [row["loss_scale"] for row in rows] == [row["loss_scale"] for row in resumed]
    assert rows[0]["repeats"] > 0 and rows[2]["repeats"] + rows[3]["repeats"] > 0
    assert any("overflowed fp16" in line for line in listener.lines)
    assert {tensor.dtype for tensor in weights(tmp_path / "whole", 4).values()} == {torch.float32}
