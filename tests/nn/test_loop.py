from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from limner.errors import Diverged, DoesNotFit
from limner.nn.loop import Average, Fit, fit
from messages import raises

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([1.0, -2.0, 3.0, 0.5])


def model() -> nn.Linear:
    made = nn.Linear(4, 1)
    with torch.no_grad():
        made.weight.fill_(0.1)
        made.bias.zero_()
    return made


def losses(net: nn.Module, micro: int = 12):
    """Mean squared error of the whole batch, in micro-batches."""

    def of(step: int) -> Iterable[Tensor]:
        for at in range(0, 12, micro):
            yield (net(X[at : at + micro])[:, 0] - Y[at : at + micro]).square().sum() / 12

    return of


def setting(net: nn.Module, *, initial: float = 0.1, **more) -> Fit:
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=123.0)
    optimizer.param_groups[0]["initial_lr"] = initial
    return Fit(parameters=parameters, optimizer=optimizer, **({"rate": lambda step: 1.0} | more))


def test_it_is_the_plain_loop():
    net, plain = model(), model()
    seen = list(fit(setting(net), losses(net), start=0, steps=20))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(20):
        loss = sum(losses(plain)(step))
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
        assert (seen[step].loss, seen[step].number) == (loss.item(), step + 1)
        assert seen[step].norm == pytest.approx(norm.item())
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(net.weight, plain.weight)
    assert seen[-1].loss < 0.05 * seen[0].loss


def test_accumulation_is_the_whole_batch():
    one, many = model(), model()
    a = list(fit(setting(one), losses(one), start=0, steps=5))
    b = list(fit(setting(many), losses(many, 5), start=0, steps=5))
    assert [step.loss for step in a] == pytest.approx([step.loss for step in b])
    assert torch.allclose(one.weight, many.weight)


def test_the_rate_is_that_of_the_step_wherever_it_starts():
    net = model()
    chosen = setting(net, initial=0.5, rate=lambda step: 1 / (step + 1))
    seen = [
        (step.number, step.rate, chosen.optimizer.param_groups[0]["lr"])
        for step in fit(chosen, losses(net), start=3, steps=6)
    ]
    assert seen == [(4, 1 / 4, 0.5 / 4), (5, 1 / 5, 0.5 / 5), (6, 1 / 6, 0.5 / 6)]
    assert list(fit(chosen, losses(net), start=6, steps=6)) == []


def test_clipping_shortens_long_gradients_only():
    net = model()
    before = net.weight.detach().clone(), net.bias.detach().clone()
    step = next(fit(setting(net, initial=1.0, clip=0.01), losses(net), start=0, steps=1))
    moved = torch.cat([(net.weight - before[0]).flatten(), net.bias - before[1]]).norm()
    assert step.norm > 1 and moved.item() == pytest.approx(0.01, rel=1e-3)
    free, loose = model(), model()
    list(fit(setting(free), losses(free), start=0, steps=3))
    list(fit(setting(loose, clip=1e9), losses(loose), start=0, steps=3))
    assert torch.equal(free.weight, loose.weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(bad: float):
    net = model()

    def broken(step: int) -> list[Tensor]:
        return [loss * (bad if step == 2 else 1) for loss in losses(net)(step)]

    steps = fit(setting(net), broken, start=0, steps=9)
    next(steps), next(steps)
    before = net.weight.detach().clone()
    with raises(Diverged):
        next(steps)
    assert torch.equal(net.weight, before)


def test_the_average_warms_up_and_swaps_back_to_the_bit():
    net = model()
    average = Average(list(net.parameters()), 0.9)
    shadow = [p.detach().clone() for p in net.parameters()]
    for step in fit(setting(net, average=average), losses(net), start=0, steps=30):
        keep = min(0.9, step.number / (step.number + 9))
        shadow = [keep * s + (1 - keep) * p.detach() for s, p in zip(shadow, net.parameters(), strict=True)]
    trained = net.weight.detach().clone()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(average.shadow, shadow, strict=True))
    average.swap()
    assert torch.allclose(net.weight, shadow[0], atol=1e-6) and not torch.equal(net.weight, trained)
    average.swap()
    assert torch.equal(net.weight, trained)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(average.shadow, shadow, strict=True))


def test_weights_and_average_change_places_without_memory():
    """It may be short just then, and half an exchange would be of no step."""
    net = model()
    average = Average(list(net.parameters()), 0.9)
    list(fit(setting(net, average=average), losses(net), start=0, steps=3))
    places = [weight.data_ptr() for weight in net.parameters()]
    others = [shadow.data_ptr() for shadow in average.shadow]
    average.swap()
    assert [weight.data_ptr() for weight in net.parameters()] == others
    assert [shadow.data_ptr() for shadow in average.shadow] == places


def test_gradients_are_shared_before_they_are_measured():
    net, calls = model(), []

    def share(parameters, loss):
        calls.append(loss.item())
        for parameter in parameters:
            parameter.grad *= 2
        return loss * 2

    alone = next(fit(setting(model_ := model()), losses(model_), start=0, steps=1))
    both = next(fit(setting(net, share=share), losses(net), start=0, steps=1))
    assert calls == [alone.loss]
    assert (both.loss, both.norm) == (2 * alone.loss, pytest.approx(2 * alone.norm))


def _short_at(net: nn.Module, at: int, times: int = 1):
    """Losses that run out of memory ``times`` times at a step, in their second micro-batch."""
    left = [times]

    def of(step: int) -> Iterable[Tensor]:
        for number, loss in enumerate(losses(net, 4)(step)):
            if step == at and number == 1 and left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield loss

    return of


def test_a_step_without_memory_leaves_the_last_one_and_can_be_taken_again():
    net, plain = model(), model()
    whole = list(fit(setting(plain), losses(plain, 4), start=0, steps=4))
    wish, short = setting(net), _short_at(net, 2)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        list(fit(wish, short, start=0, steps=4))
    steps = whole[:2]
    assert all(parameter.grad is None for parameter in net.parameters())
    steps += fit(wish, short, start=2, steps=4)
    assert [step.loss for step in steps] == [step.loss for step in whole]
    assert torch.equal(net.weight, plain.weight)


def test_memory_that_another_process_lacks_gives_the_step_up_here_too():
    net = model()
    with pytest.raises(torch.OutOfMemoryError, match="Another process"):
        list(fit(setting(net, anyone=lambda _: True), losses(net), start=0, steps=1))
    assert torch.equal(net.weight, model().weight)


def _raises(times: int, made=None):
    """Something that runs out of memory so often, and then gives what it is called with."""
    left = [times]

    def act(*given, **options):
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made(*given, **options) if made else None

    return act


@pytest.mark.parametrize("where", ["memory", "share", "norm", "clip"])
def test_memory_that_runs_out_after_the_gradients_leaves_none_of_them(where: str, monkeypatch):
    """Or the same step, taken again, would add to them."""
    net, plain = model(), model()
    whole = list(fit(setting(plain, clip=0.1), losses(plain, 4), start=0, steps=3))
    more = {"memory": {"reserve": (8, 8)}, "share": {"share": _raises(1, lambda _, loss: loss)}}
    wish = setting(net, clip=0.1, **more.get(where, {}))
    calls = {
        "memory": (torch, "empty"),
        "norm": (nn.utils, "get_total_norm"),
        "clip": (nn.utils, "clip_grads_with_norm_"),
    }
    if where in calls:
        owner, name = calls[where]
        monkeypatch.setattr(owner, name, _raises(1, getattr(owner, name)))
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        list(fit(wish, losses(net, 4), start=0, steps=3))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(net.weight, model().weight)
    assert [step.loss for step in fit(wish, losses(net, 4), start=0, steps=3)] == [s.loss for s in whole]
    assert torch.equal(net.weight, plain.weight)


def test_an_optimizer_that_stops_half_way_is_told_with_the_way_on(monkeypatch):
    net = model()
    wish = setting(net)
    monkeypatch.setattr(wish.optimizer, "step", _raises(1))
    with raises(DoesNotFit):
        list(fit(wish, losses(net), start=0, steps=1))


def halved(net: nn.Module, steps: list[int]):
    """The same with outputs in fp16, whose gradients overflow at large scales of the loss."""

    def of(step: int) -> Iterable[Tensor]:
        steps.append(step)
        yield (net(X)[:, 0].half().float() - Y).square().sum() / 12

    return of


def test_a_step_whose_scaled_gradient_overflows_is_repeated_from_the_same_draws():
    net, plain, asked = model(), model(), []
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=4)
    seen = list(fit(setting(net, initial=1e-3, scaler=scaler), halved(net, asked), start=0, steps=6))
    unscaled = list(fit(setting(plain, initial=1e-3), halved(plain, []), start=0, steps=6))
    assert seen[0].repeats > 0 and asked[: seen[0].repeats + 1] == [0] * (seen[0].repeats + 1)
    assert seen[4].repeats > 0, "the scale has grown again after four steps"
    assert [step.number for step in seen] == [1, 2, 3, 4, 5, 6]
    assert len(asked) == 6 + sum(step.repeats for step in seen)
    assert [step.loss for step in seen] == pytest.approx([step.loss for step in unscaled], rel=1e-3)
    assert torch.allclose(net.weight, plain.weight, rtol=2e-3)


def test_what_no_scale_makes_finite_diverges():
    net = model()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def infinite(_: int) -> Iterable[Tensor]:
        yield (net(X) * 0).abs().sqrt().sum()  # the slope of a root at 0

    with raises(Diverged):
        next(fit(setting(net, scaler=scaler), infinite, start=0, steps=1))
    assert scaler.get_scale() == 1.0 and torch.equal(net.weight, model().weight)
