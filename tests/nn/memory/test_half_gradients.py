"""A step whose gradients waited in bf16 is that of gradients in fp32, bit for bit."""

import pytest
import torch
from torch import nn

from limner.nn import arch
from limner.nn.loop import Fit, fit
from limner.nn.memory import offload
from limner.nn.memory.offload import HalfGradients
from limner.nn.optim import optimizer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 32), nn.Linear(32, 2)
        self.idle = nn.Linear(3, 3)

    def forward(self, x):
        return self.down(nn.functional.gelu(self.up(self.norm(self.conv(x).movedim(1, -1)))))


def trained(name, *, halves, micro_batches=1, clip=0.1):
    """Weights, (loss, length of the gradient) of every step, and who kept gradients."""
    model = arch.unfreeze(Net())
    weights = arch.trained(model)
    taker = HalfGradients(model) if halves else None
    chosen = optimizer(name, [{"params": weights, "lr": 1e-2}], weight_decay=0.1)

    def losses(step):
        draw = torch.Generator().manual_seed(step)
        for _ in range(micro_batches):
            x = torch.randn(2, 2, 4, 4, generator=draw)
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                loss = (model(x).float() - 1).square().mean()
            yield loss

    setting = Fit(parameters=weights, optimizer=chosen, rate=lambda _: 1.0, clip=clip, half_gradients=taker)
    rows = [(step.loss, step.norm) for step in fit(setting, losses, start=0, steps=4)]
    return weights, rows, taker


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize(("micro_batches", "clip"), [(1, 0.1), (1, 0.0), (3, 0.1)])
def test_steps_are_those_of_gradients_in_fp32_to_the_bit(name, micro_batches, clip, monkeypatch):
    monkeypatch.setattr(offload, "PORTION", 200)  # several portions, and one weight larger than that
    here, rows, _ = trained(name, halves=False, micro_batches=micro_batches, clip=clip)
    there, others, taker = trained(name, halves=True, micro_batches=micro_batches, clip=clip)
    assert rows == others and len(set(rows)) == 4
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert taker is not None and not taker._halves and all(weight.grad is None for weight in there)


def test_linear_layers_and_convolutions_wait_in_two_bytes_and_norms_in_four():
    model = arch.unfreeze(Net())
    taker = HalfGradients(model)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        model(torch.ones(1, 2, 4, 4)).float().sum().backward()
    waiting = [half for halves in taker._halves.values() for half in halves]
    assert {half.dtype for half in waiting} == {torch.bfloat16}
    assert len(waiting) == 6 and model.up.weight.grad is None
    assert model.norm.weight.grad is not None and model.norm.weight.grad.dtype == torch.float32
    taker.clear()
    assert not list(taker.portions([model.up.weight], None)), "nothing of a pass that was cut short is left"


def test_gradients_are_left_alone_once_it_is_closed():
    model = arch.unfreeze(Net())
    HalfGradients(model).close()
    model(torch.ones(1, 2, 4, 4)).sum().backward()
    assert model.up.weight.grad is not None


def test_memory_that_runs_out_leaves_no_gradient_behind():
    model = arch.unfreeze(Net())
    weights, taker = arch.trained(model), HalfGradients(model)
    chosen = optimizer("adamw", [{"params": weights, "lr": 1e-2}])

    def losses(_):
        yield model(torch.ones(1, 2, 4, 4)).sum()
        raise torch.OutOfMemoryError

    setting = Fit(parameters=weights, optimizer=chosen, rate=lambda _: 1.0, half_gradients=taker)
    with pytest.raises(torch.OutOfMemoryError):
        list(fit(setting, losses, start=0, steps=1))
    assert not taker._halves and all(weight.grad is None for weight in weights)
