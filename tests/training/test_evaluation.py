import pytest
from safetensors.torch import load_file

from limner.errors import BadCheckpoint, BadRecipe
from limner.lora import file
from limner.run_folder import RunDir
from limner.runs import train
from limner.training.model import TrainableModel
from messages import raises
from small import Told, equal, losses, weights, wish

PATIENT = {"steps": 8, "batch": 1, "save_every": 8, "validation_every": 1, "patience": 2, "keep": 1}
MEASURED = {0: 3.0, 1: 2.0, 2: 1.5, 3: 1.0, 4: 1.2, 5: 1.1, 6: 0.9}


@pytest.fixture
def measured(monkeypatch):
    """Validation losses that fall until step 3 and would fall again at step 6, by the number of updates."""
    steps: list[int] = [0]
    true = TrainableModel.publish

    def publish(self, *given):
        steps[0] += bool(given)  # after each step of the optimizer
        true(self, *given)

    monkeypatch.setattr(TrainableModel, "publish", publish)
    monkeypatch.setattr(TrainableModel, "validation_losses", lambda _: [MEASURED[steps[0]]])
    return steps


def test_a_patient_run_ends_early_and_leaves_its_best(tiny_base, photos, tmp_path, measured):
    told, run = Told(), RunDir(tmp_path / "run")
    recipe = wish(tiny_base, photos, train=PATIENT, sample={"every": 0, "prompts": ["zorb"], "steps": 1})
    done = train(recipe, run.path, told)
    assert (done.steps, done.validation_loss, losses(run.path)[-1][0]) == (5, 1.0, 5)
    assert "Early stopping at step 5: 2 evaluations without a better validation loss" in told.text
    assert file.read(run.lora_path).metadata["ss_steps"] == "3" and list(run.samples()) == [0, 3]
    final, best, last = map(load_file, (run.lora_path, run.step_lora_path(3), run.step_lora_path(5)))
    assert equal(final, best) and not equal(final, last)
    assert [step for step, _ in run.checkpoints()] == [5, 3]
    assert (
        "stopped early, of 8" in run.report_path.read_text()
        and "The LoRA is that of step 3" in run.report_path.read_text()
    )
    before = run.lora_path.read_bytes()
    again = Told()
    assert train(recipe, run.path, again).steps == 5 and run.lora_path.read_bytes() == before
    assert "Training" not in again.counts and "raise train.patience or remove it" in again.text
    with raises(BadCheckpoint):
        train(wish(tiny_base, photos, train={**PATIENT, "clip": 0.5}), run.path, Told())


def test_more_patience_goes_on_as_one_run_would(tiny_base, photos, tmp_path, measured):
    train(wish(tiny_base, photos, train=PATIENT), tmp_path / "run", Told())
    more = wish(tiny_base, photos, train={**PATIENT, "patience": 3, "steps": 6})
    train(more, tmp_path / "run", Told())
    measured[0] = 0
    train(more, tmp_path / "whole", Told())
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "run", 6), weights(tmp_path / "whole", 6))
    assert file.read(tmp_path / "run" / "lora.safetensors").metadata["ss_steps"] == "6"


def test_images_that_are_trained_on_end_no_run(tiny_base, photos, tmp_path):
    with raises(BadRecipe):
        train(wish(tiny_base, photos, train=PATIENT, data={"validation_count": 0}), tmp_path / "run", Told())
