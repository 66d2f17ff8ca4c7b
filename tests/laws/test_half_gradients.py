"""Gradients that wait in bf16 give the same full fine-tune, resumed too, to the bit."""

import json

import pytest

from limner.planning.choice import PlanRequest
from limner.run_folder import RunDir
from limner.runs import train
from small import Told, equal, losses, weights, wish


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # norms in fp32 read bf16, as autocast leaves it
def test_gradients_in_bf16_give_the_same_full_fine_tune_resumed_too(tiny_base, photos, tmp_path, monkeypatch):
    def recipe(steps):
        return wish(
            tiny_base,
            photos,
            lora={"rank": 16},
            train={"method": "full", "batch": 1, "learning_rate": 1e-3, "steps": steps},
            limits={"compute_dtype": "bf16"},
        )

    train(recipe(4), tmp_path / "plain", Told())
    monkeypatch.setattr(PlanRequest, "gradients", lambda *_: ("bf16",))  # a processor is not offered them
    for steps in (2, 4):
        train(recipe(steps), tmp_path / "parts", Told())
    kept = json.loads(RunDir(tmp_path / "parts").plan_path.read_text(encoding="utf-8"))
    assert kept["plan"]["gradients"] == "bf16"
    assert losses(tmp_path / "parts") == losses(tmp_path / "plain")
    assert equal(weights(tmp_path / "parts", 4), weights(tmp_path / "plain", 4))
