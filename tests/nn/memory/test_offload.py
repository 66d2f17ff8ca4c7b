"""A full fine-tune whose masters, gradients and AdamW are on the host is that on the device, bit for bit."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import BadRecipe
from limner.nn import arch
from limner.nn.arch import ArchSpec
from limner.nn.loop import Average, Fit, fit
from limner.nn.memory.offload import Offload, cast_once, halve, in_fp32, require_kernels
from limner.nn.optim import optimizer
from messages import raises
from waiting import LONGEST

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 32), nn.Linear(32, 2)
        self.idle = nn.Linear(3, 3)

    def forward(self, x):
        x = self.norm(self.conv(x).movedim(1, -1))
        return self.down(nn.functional.gelu(self.up(x)))


def trained(dtype, *, hosted, steps=4):
    """The weights, losses and average after some steps of three micro-batches each."""
    model = arch.unfreeze(Net())
    there = Offload(model, dtype=dtype, device=CPU) if hosted else None
    weights = list(there.masters.values()) if there else arch.trained(model)
    chosen = optimizer("adamw", [{"params": weights, "lr": 1e-2}], weight_decay=0.1)
    if there:
        chosen.register_step_post_hook(lambda *_: there.publish())
    average = Average(weights, 0.5)

    def losses(step):
        draw = torch.Generator().manual_seed(step)
        for _ in range(3):
            x = torch.randn(2, 2, 4, 4, generator=draw)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False):
                loss = (model(x).float() - 1).square().mean()
            yield loss
            if there:
                assert all(weight.grad is None for weight in there.working.values())
                there.gather()

    setting = Fit(parameters=weights, optimizer=chosen, rate=lambda _: 1.0, clip=0.1, average=average)
    seen = [step.loss for step in fit(setting, losses, start=0, steps=steps)]
    return [*weights, *average.shadow], seen, model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_on_the_host_are_those_on_the_device_to_the_bit(dtype):
    here, losses, _ = trained(dtype, hosted=False)
    there, others, model = trained(dtype, hosted=True)
    assert losses == others and len(set(losses)) == 4
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert {model.up.weight.dtype, model.conv.bias.dtype} == {dtype}
    assert model.norm.weight.dtype == torch.float32


def test_a_backward_pass_that_was_cut_short_leaves_nothing():
    model = arch.unfreeze(Net())
    there = Offload(model, dtype=torch.float32, device=CPU)
    model(torch.ones(1, 2, 4, 4)).sum().backward()
    there.forget()
    there.gather()
    assert all(master.grad is None for master in there.masters.values())


def test_what_the_masters_become_is_what_is_computed_with():
    model = arch.unfreeze(Net())
    there = Offload(model, dtype=torch.bfloat16, device=CPU)
    with torch.no_grad():
        there.masters["up.weight"].fill_(1 / 3)
    assert model.up.weight[0, 0] != torch.tensor(1 / 3).bfloat16()
    there.publish()
    assert (model.up.weight == torch.tensor(1 / 3).bfloat16()).all()


def test_norms_stay_in_full_precision():
    model = Net()
    halve(model, torch.bfloat16)
    assert {name for name, each in model.named_parameters() if each.dtype == torch.float32} == {
        "norm.weight",
        "norm.bias",
    }


WORK = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from limner.nn import distributed
from limner.nn import arch
from limner.nn.loop import Fit, fit
from limner.nn.memory.offload import Offload
from limner.nn.optim import optimizer
rank, meet, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + meet, rank=rank, world_size=2)
torch.manual_seed(0)
model = arch.unfreeze(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)))
there = Offload(model, dtype=torch.float32, device=torch.device("cpu"))
weights = list(there.masters.values())
def whole(step):
    draw = torch.Generator().manual_seed(step)
    return [torch.randn(3, 4, generator=draw) for _ in range(2)]
def losses(mine):
    def of(step):
        for x in whole(step)[mine]:
            yield (model(x) - 1).square().mean()
            there.gather()
    return of
def trained(mine, share):
    chosen = optimizer("adamw", [{"params": weights, "lr": 1e-2}], weight_decay=0.1)
    chosen.register_step_post_hook(lambda *_: there.publish())
    setting = Fit(parameters=weights, optimizer=chosen, rate=lambda _: 1.0, clip=0.1, share=share)
    seen = [step.loss for step in fit(setting, losses(mine), start=0, steps=3)]
    return seen, [weight.detach().clone() for weight in weights]
before = [weight.detach().clone() for weight in weights]
both, moved = trained(slice(rank, rank + 1), distributed.sum_on_host)
with torch.no_grad():
    for weight, old in zip(weights, before):
        weight.copy_(old)
there.publish()
alone, other = trained(slice(0, 2), None)
assert both == alone and all(map(torch.equal, moved, other)), (both, alone)
assert not any(map(torch.equal, moved, before))
"""


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_accumulation(tmp_path):
    given = [str(tmp_path / "meet"), str(tmp_path)]
    commands = [[sys.executable, "-c", WORK, str(rank), *given] for rank in range(2)]
    started = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    for each in started:
        _, told = each.communicate(timeout=LONGEST)
        assert each.returncode == 0, told


HALF = torch.bfloat16
ARCH = ArchSpec(blocks=("blocks.*",))


class Model(nn.Module):
    """Looks at what it is given, as it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv2d(1, 2, 1, dtype=HALF)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4, dtype=HALF))])
        self.seen: dict[str, torch.dtype] = {}

    def forward(self, rows: Any, hidden_states: Tensor, **more: Any) -> Tensor:
        flat = {"rows": rows[0], "hidden_states": hidden_states, **more.pop("added", {}), **more}
        self.seen = {name: value.dtype for name, value in flat.items()}
        return self.blocks[0](self.inward(hidden_states))


def given() -> dict[str, Any]:
    more = {"text": torch.ones(1, 3), "time": torch.ones(1), "mask": torch.ones(1, 3, dtype=torch.bool)}
    nested = {"added": {"time_ids": torch.ones(1, 6), "pooled": torch.ones(1, 3)}}
    return {"rows": [torch.ones(2, 2)], "hidden_states": torch.ones(1, 1, 4, 4), **more, **nested}


def test_states_are_cast_and_times_places_and_masks_are_not():
    model = Model()
    with cast_once(model, ARCH, HALF):
        assert model(**given()).dtype == HALF
    full = dict.fromkeys(("hidden_states", "time", "time_ids"), torch.float32)
    assert model.seen == full | dict.fromkeys(("rows", "text", "pooled"), HALF) | {"mask": torch.bool}


def test_it_can_be_taken_off():
    model = Model()
    cast_once(model, ARCH, HALF).close()
    with pytest.raises(RuntimeError, match="type"):
        model(**given())


def test_layers_in_blocks_are_left_alone():
    model = Model()
    with cast_once(model, ARCH, HALF), pytest.raises(RuntimeError, match="type"):
        model.blocks[0](torch.ones(1, 4))


def test_latents_of_any_precision_are_decoded_in_fp32():
    decode = in_fp32(lambda latents, scale=1.0: latents * scale)
    latents = torch.full((1, 4, 2, 2), 60000.0, dtype=torch.float16)
    assert torch.equal(decode(latents, scale=2.0), latents.float() * 2)


def test_a_processor_without_kernels_is_refused(monkeypatch: pytest.MonkeyPatch):
    require_kernels(torch.device("cpu"))  # this torch has them

    def missing(*_: object) -> None:
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")

    monkeypatch.setattr(torch, "__version__", "2.1.0")
    monkeypatch.setattr(F, "linear", missing)
    with raises(BadRecipe):
        require_kernels(torch.device("cpu"))
