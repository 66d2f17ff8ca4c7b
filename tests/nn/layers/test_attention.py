from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from equipping import equip
from limner.errors import BadRecipe
from limner.nn.arch import ArchSpec
from limner.nn.layers import attention
from limner.nn.layers.attention import Attention, Call, timed, usable

CPU = torch.device("cpu")
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
CALL = Call(((1, 2, 6, 4),) * 3, torch.float32, CPU, None, gradient=True)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        heads = self.mix(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return x + F.scaled_dot_product_attention(heads, heads, value=heads, attn_mask=mask).transpose(
            1, 2
        ).flatten(2)


class Fused(TorchDispatchMode):
    """Counts attention in one piece."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is FLASH
        return func(*args, **(kwargs or {}))


def _model() -> Any:
    torch.manual_seed(0)
    model: Any = nn.Module()
    model.blocks = nn.ModuleList(Block() for _ in range(2))
    return model


def _run(model: Any, tokens: int = 6) -> tuple[int, list[Tensor]]:
    """How many attentions were computed in one piece, and the gradients."""
    x = torch.linspace(-1, 1, tokens * 8).sin().view(1, tokens, 8)
    with Fused() as fused:
        for block in model.blocks:
            x = block(x)
        gradients = list(torch.autograd.grad(x.square().sum(), list(model.parameters())))
    return fused.count, gradients


def _equip(model: Any, **plan: Any) -> Attention:
    return equip(model, ArchSpec(blocks=("blocks.*",)), device=CPU, **plan).attention


def test_on_a_cpu_torch_chooses_and_says_so() -> None:
    model = _model()
    chooser = _equip(model)
    assert chooser.idle and chooser.said() == "attention: torch's own kernel for cpu"
    assert not any("forward" in vars(block) for block in model.blocks)


@pytest.mark.parametrize("checkpointed", [0, 2])
def test_a_kernel_that_is_wished_for_is_used_the_second_time_too(checkpointed: int) -> None:
    model = _model()
    plainly, plain = _run(model)
    assert plainly == 2
    for kernel, fused in (("math", 0), ("flash", 2 + checkpointed)):
        chooser = _equip(model, attention=kernel, checkpointed=checkpointed)
        _run(model)  # learns which sizes there are
        count, gradients = _run(model)
        assert count == fused and chooser.said() == f"attention: {kernel}"
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, gradients, strict=True))
        for block in model.blocks:
            del block.forward


@pytest.mark.parametrize("kernel", ["cudnn", "efficient"])
def test_a_kernel_that_the_device_lacks_is_refused_with_those_that_it_has(kernel: Any) -> None:
    with pytest.raises(BadRecipe, match=rf"{kernel} needs a GPU; a CPU has flash, math\. Set auto\."):
        _equip(_model(), attention=kernel)


def test_a_kernel_that_cannot_compute_a_shape_is_refused_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "usable", lambda name, _: name in {"efficient", "math"})
    model = _model()
    _equip(model, attention="flash")
    said = r"flash cannot compute 1 x 2 x 6 x 4 in float32 on cpu\. Set auto, or .* can: efficient, math\."
    with pytest.raises(BadRecipe, match=said):
        _run(model)


def test_kernels_are_tried_once_for_each_size_and_the_fastest_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Attention, "idle", False)
    tried: list[Call] = []

    def quick(call: Call) -> dict[str, float]:
        tried.append(call)
        return {"efficient": 0.003, "flash": 0.001, "cudnn": 0.002}

    monkeypatch.setattr(attention, "timed", quick)
    model = _model()
    plainly, plain = _run(model)
    chooser = _equip(model, checkpointed=1)
    for tokens, learning in ((6, 1), (6, 0), (7, 1)):
        count, gradients = _run(model, tokens)
        assert count == plainly + 1 + learning
        assert tokens != 6 or all(map(torch.equal, gradients, plain))
    assert [call.shapes[0] for call in tried] == [(1, 2, 6, 4), (1, 2, 7, 4)] and tried[0].gradient
    assert chooser._orders.popitem()[1] == ("flash", "cudnn", "efficient", "math")
    assert (
        "1 x 2 x 7 x 4 in float32 on cpu: flash 1.00 ms, cudnn 2.00 ms, efficient 3.00 ms" in chooser.said()
    )


def test_a_block_without_attention_needs_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attention, "idle", False)
    chooser = Attention("auto", CPU)
    run = chooser.before(chooser.within(F.relu, "relu"), F.relu, "relu")
    assert torch.equal(run(torch.tensor([-1.0, 1.0])), torch.tensor([0.0, 1.0])) and not chooser.seconds


def test_masks_and_other_lengths_of_keys_are_part_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attention, "idle", False)
    block, chooser = Block(), Attention("auto", CPU)
    run = chooser.before(chooser.within(block.forward, "Block"), block.forward, "Block")
    with torch.no_grad():
        run(torch.ones(1, 5, 8), torch.zeros(1, 1, 5, 5))
    (call,) = chooser.seconds
    assert call.masked == (1, 1, 5, 5) and not call.gradient


def test_on_this_machine_flash_and_math_are_usable_and_timed() -> None:
    assert [name for name in attention.KERNELS if usable(name, CALL)] == ["flash", "math"]
    seconds = timed(CALL)
    assert list(seconds) == ["flash"] and 0 < seconds["flash"] < 5


def test_running_out_of_memory_is_not_taken_for_a_kernel_that_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(attention, "scaled_dot_product_attention", full)
    with pytest.raises(torch.OutOfMemoryError):
        timed(CALL)
