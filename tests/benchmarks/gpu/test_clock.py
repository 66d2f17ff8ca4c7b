import json

import pytest
import torch

from gpu import clock


def steps(weight, count):
    moving = torch.optim.SGD([weight], lr=0.1)
    for _ in range(count):
        weight.grad = torch.ones_like(weight)
        moving.step()


def test_a_clock_ends_a_program_after_the_steps_that_count(tmp_path):
    path, weight = tmp_path / "seen.json", torch.zeros(1)
    clock.Clock(path, warm_up=1, steps=2, began=0.0)
    with pytest.raises(clock.Enough):
        steps(weight, 9)
    seen = json.loads(path.read_text())
    assert len(seen["seconds"]) == 2
    assert min(seen["seconds"]) > 0
    assert seen["first_step"] > 0
    assert seen["host_peak"] > 1e7
    assert weight.item() == pytest.approx(-0.3)


def test_a_clock_that_is_done_watches_no_longer(tmp_path):
    path = tmp_path / "seen.json"
    watch = clock.Clock(path, warm_up=0, steps=5, began=0.0)
    steps(torch.zeros(1), 2)
    watch.write()
    steps(torch.zeros(1), 9)
    assert len(json.loads(path.read_text())["seconds"]) == 1


def test_rate_of_a_product():
    assert clock.matrix_rate(64, torch.float32, "cpu") > 1e6
