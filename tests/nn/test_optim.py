import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from limner.errors import BadRecipe
from limner.nn.optim import SCHEDULES, ScheduleForm, evaluation_mode, optimizer, schedule, training_mode
from limner.recipe.optimizers import OPTIMIZERS
from messages import raises


def one(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.full((8, 8), value))


def rate(name: str) -> float:
    return 1.0 if name == "prodigy" else 0.05


@pytest.mark.parametrize("name", [name for name, record in OPTIMIZERS.items() if not record.probed])
def test_each_one_goes_down(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    weight = one(0.0)
    using = optimizer(name, [{"params": [weight], "lr": rate(name)}], weight_decay=0.1)
    for _ in range(150):
        ((weight - 0.3) ** 2).sum().backward()
        using.step()
        using.zero_grad()
    evaluation_mode(using)
    assert ((weight - 0.3) ** 2).mean() < 0.01
    assert capsys.readouterr().out == ""


def test_groups_keep_their_rates_and_get_the_decay() -> None:
    groups = [{"params": [one()], "lr": 1e-3}, {"params": [one()], "lr": 1e-5}]
    using = optimizer("adamw", groups, weight_decay=0.5)
    assert [group["initial_lr"] for group in using.param_groups] == [1e-3, 1e-5]
    assert [group["weight_decay"] for group in using.param_groups] == [0.5, 0.5]
    assert using.defaults["fused"] is True


def test_adafactor_moves_weights_that_start_at_zero_at_the_wished_rate() -> None:
    weight = one(0.0)
    using = optimizer("adafactor", [{"params": [weight], "lr": 1e-2}])
    weight.grad = torch.ones_like(weight)
    using.step()
    assert torch.allclose(weight, torch.full_like(weight, -1e-2), rtol=1e-3)


def test_a_missing_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bitsandbytes", "prodigyopt", "schedulefree"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, command in {
        "adamw8bit": r"pip install bitsandbytes` \(or `pip install limner\[gpu\]",
        "prodigy": r"pip install prodigyopt` \(or `pip install limner\[optim\]",
        "schedulefree": r"pip install schedulefree` \(or `pip install limner\[optim\]",
    }.items():
        with pytest.raises(BadRecipe, match=command):
            optimizer(name, [{"params": [one()], "lr": 1.0}])


def test_pages_are_asked_of_bitsandbytes_by_name_and_want_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    away = SimpleNamespace(device=torch.device("cuda"))
    with raises(BadRecipe):
        optimizer("pagedadamw8bit", [{"params": [away], "lr": 1.0}])
    with raises(BadRecipe):
        optimizer("pagedadamw8bit", [{"params": [one()], "lr": 1.0}])


def test_8_bits_without_a_kernel_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoKernel(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise NotImplementedError("optimizer_update_8bit_blockwise")

    fake = SimpleNamespace(optim=SimpleNamespace(AdamW8bit=NoKernel))
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    with raises(BadRecipe):
        optimizer("adamw8bit", [{"params": [one()], "lr": 1.0}])


@pytest.mark.parametrize(
    ("name", "rates", "kind", "reason"),
    [
        ("lion", [1.0], "constant", "none of: adamw, adamw8bit"),
        ("adamw", [0.0], "constant", "learning_rate is 0"),
        ("schedulefree", [1e-3], "cosine", "takes the place of a schedule"),
        ("prodigy", [1.0, 0.5], "constant", "Remove train.text_encoder_learning_rate"),
        ("prodigy", [1e-4], "constant", "0.0001. Set train.learning_rate to 1"),
    ],
)
def test_contradictions_are_refused(name: str, rates: list[float], kind: str, reason: str) -> None:
    with pytest.raises(BadRecipe, match=reason):
        optimizer(name, [{"params": [one()], "lr": rate} for rate in rates], schedule=kind)


def test_prodigy_guards_a_warm_up() -> None:
    using = optimizer("prodigy", [{"params": [one()], "lr": 1.0}], warmup=10)
    assert using.param_groups[0]["safeguard_warmup"] is True
    assert optimizer("prodigy", [{"params": [one()], "lr": 1.0}]).param_groups[0]["safeguard_warmup"] is False


def test_warm_up_from_outside_is_schedulefrees_own() -> None:
    package = pytest.importorskip("schedulefree")
    ours, theirs = one(), one()
    using = optimizer("schedulefree", [{"params": [ours], "lr": 0.1}], weight_decay=0.0, warmup=4)
    other = package.AdamWScheduleFree([theirs], lr=0.1, warmup_steps=4)
    other.train()
    multiplier = schedule("constant", 4, 10)
    for step in range(10):
        using.param_groups[0]["lr"] = 0.1 * multiplier(step)
        for weight in (ours, theirs):
            weight.grad = weight.detach() - 0.3 * step
        using.step()
        other.step()
    assert torch.equal(ours, theirs)


def test_looking_does_not_change_the_training() -> None:
    looked, left = one(), one()
    first, second = (
        optimizer("schedulefree", [{"params": [weight], "lr": 0.1}]) for weight in (looked, left)
    )
    evaluation_mode(first)  # before any step: nothing to exchange
    training_mode(first)
    for step in range(8):
        for weight in (looked, left):
            weight.grad = weight.detach() * 0.7 - step
        first.step()
        second.step()
        before = looked.detach().clone()
        evaluation_mode(first)
        evaluation_mode(first)  # twice is once
        assert step == 0 or not torch.equal(looked, before)
        training_mode(first)
        training_mode(first)
        assert torch.equal(looked, before)
    assert torch.equal(looked, left)
    evaluation_mode(second)
    with pytest.raises(Exception, match="not in train mode"):
        second.step()


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy"])
def test_modes_mean_nothing_to_the_others(name: str) -> None:
    weight = one()
    using = optimizer(name, [{"params": [weight], "lr": rate(name)}])
    weight.grad = torch.ones_like(weight)
    using.step()
    before, state = weight.detach().clone(), using.state_dict()["state"][0].keys()
    evaluation_mode(using)
    training_mode(using)
    assert torch.equal(weight, before)
    assert using.state_dict()["state"][0].keys() == state


def test_schedules() -> None:
    assert [schedule("constant", 4, 8)(s) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [schedule("linear", 0, 4)(s) for s in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert [schedule("linear", 1, 5)(s) for s in (0, 1, 3)] == [1, 1, 0.5]
    cosine = schedule("cosine", 0, 4)
    assert [cosine(s) for s in range(5)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)


def test_schedules_with_a_form_of_their_own_are_those_of_transformers() -> None:
    """But for the warm-up, which rises to 1 a step sooner here."""
    from transformers import optimization as peer

    forms = {
        "cosine_with_restarts": (
            ScheduleForm(cycles=3),
            lambda driver: peer.get_cosine_with_hard_restarts_schedule_with_warmup(driver, 0, 20, 3),
        ),
        "polynomial": (
            ScheduleForm(power=2.0),
            lambda driver: peer.get_polynomial_decay_schedule_with_warmup(driver, 0, 20, 0.0, 2.0),
        ),
        "warmup_stable_decay": (
            ScheduleForm(decay=5),
            lambda driver: peer.get_wsd_schedule(driver, 0, 5, num_training_steps=20),
        ),
    }
    for name, (form, make) in forms.items():
        driver = torch.optim.SGD([one()], lr=1.0)
        theirs = make(driver)
        ours = schedule(name, 0, 20, form)
        for step in range(20):
            assert ours(step) == pytest.approx(driver.param_groups[0]["lr"], abs=1e-6), (name, step)
            driver.step()
            theirs.step()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("torch.optim.Nothing", {}),
        ("nopackage.Lion", {}),
        ("math.sqrt", {}),
        ("torch.optim.LBFGS", {}),
        ("torch.optim.SGD", {"momentumm": 0.9}),
        ("adamw", {"epsilon": 1e-6}),
    ],
)
def test_a_class_that_cannot_be_had_or_stepped_is_refused(name: str, arguments: dict) -> None:
    with raises(BadRecipe):
        optimizer(name, [{"params": [one()], "lr": 0.1}], arguments=arguments)


def test_a_class_by_its_path_gets_its_own_arguments_and_our_rates() -> None:
    using = optimizer(
        "torch.optim.RAdam", [{"params": [one()], "lr": 0.1}], weight_decay=0.2, arguments={"eps": 1e-5}
    )
    assert type(using) is torch.optim.RAdam
    group = using.param_groups[0]
    assert (group["lr"], group["initial_lr"], group["eps"], group["weight_decay"]) == (0.1, 0.1, 1e-5, 0.2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_that_is_run_has_a_rate(name: str) -> None:
    assert all(0 < schedule(name, warmup, 20)(s) <= 1 for warmup in (0, 1, 7, 19) for s in range(20))


def test_impossible_schedules_are_refused() -> None:
    with raises(BadRecipe):
        schedule("step", 0, 10)
    with raises(BadRecipe):
        schedule("cosine", 10, 10)
