"""Pairs that read one tensor share a product: the same gradients, to rounding."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.nn.arch import get_state
from limner.nn.layers import adapter, lora
from limner.nn.layers.adapter import AdapterShape, LowRank, Readers
from limner.nn.layers.quantized_linear import freeze
from limner.nn.memory.checkpointing import Checkpoint
from limner.nn.rng import PlacedDropout

WIDTH, TOKENS = 32, 24


class Attention(nn.Module):
    def __init__(self, *, cross: bool = False) -> None:
        super().__init__()
        self.is_cross_attention = cross
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        source = x if other is None else other
        q, k, v = self.to_q(x), self.to_k(source), self.to_v(source)
        return self.to_out(F.scaled_dot_product_attention(q, k, v))


NAMES = ["to_q", "to_k", "to_v", "to_out"]


def attached(*, together: bool, dropout: float = 0.0, **how: Any) -> Attention:
    torch.manual_seed(0)
    net = Attention(**how)
    places = [(0, number) for number in range(2)]
    seeded = {"dropout": dropout, "seed": 1, "places": places}
    lora.attach(net, NAMES, rank=4, alpha=4.0, **seeded)
    if together:
        lora.together(net)
    for number, factor in enumerate(lora.trained(net)):
        nn.init.normal_(factor, std=0.2, generator=torch.Generator().manual_seed(number))
    return net


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, TOKENS, WIDTH, generator=generator).requires_grad_() for _ in range(2)]


def results(net: Attention, *given: Tensor) -> list[Tensor]:
    made = net(*given)
    read = [*given, *lora.trained(net)]
    return [made, *torch.autograd.grad(made.square().sum(), read)]


def off(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).detach().norm() / b.detach().norm()) for a, b in zip(one, other, strict=True))


def left(net: nn.Module) -> int:
    """Tensors that no pair came for."""
    readers = {id(each.readers): each.readers for each in lora.attached(net).values() if each.readers}
    return sum(each is not None for one in readers.values() for each in (one.input, *one.outputs))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the right factors of all products of inputs with factors."""
    plain, shapes = F.linear, list[tuple[int, ...]]()

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append(tuple(weight.shape))
        return plain(x, weight, bias)

    monkeypatch.setattr(adapter.F, "linear", linear)
    return shapes


def test_one_product_serves_three_and_gradients_are_the_same_to_rounding(monkeypatch: pytest.MonkeyPatch):
    x, _ = inputs()
    alone = results(attached(together=False), x)
    net = attached(together=True)
    shapes = counted(monkeypatch)
    assert off(results(net, x), alone) < 1e-6
    inner = [shape for shape in shapes if shape[0] != WIDTH]
    assert inner == [(12, WIDTH), (4, WIDTH)]  # q, k and v; then what stands behind attention
    assert left(net) == 0


def test_in_cross_attention_k_and_v_share(monkeypatch: pytest.MonkeyPatch):
    x, other = inputs()
    alone = results(attached(together=False, cross=True), x, other)
    net = attached(together=True, cross=True)
    shapes = counted(monkeypatch)
    assert off(results(net, x, other), alone) < 1e-6
    assert [shape for shape in shapes if shape[0] != WIDTH] == [(4, WIDTH), (8, WIDTH), (4, WIDTH)]
    assert left(net) == 0


def test_pairs_that_are_given_another_tensor_are_right_all_the_same():
    """Nothing says of this attention that its k and v read something else."""
    x, other = inputs()
    assert off(results(attached(together=True), x, other), results(attached(together=False), x, other)) < 1e-6


def test_ranks_may_differ():
    torch.manual_seed(0)
    x = torch.randn(2, TOKENS, WIDTH)
    pairs = [LowRank(nn.Linear(WIDTH, WIDTH), AdapterShape(rank, 0.5), nn.Identity()) for rank in (2, 5, 1)]
    for pair in pairs:
        for factor in (pair.down, pair.up):
            nn.init.normal_(factor)
    alone = [pair(x) for pair in pairs]
    readers = Readers(pairs)
    for pair in pairs:
        pair.readers = readers
    assert all(
        torch.allclose(pair(x), one, rtol=1e-5, atol=1e-5) for pair, one in zip(pairs, alone, strict=True)
    )


def test_with_dropout_each_reads_an_input_of_its_own():
    x, _ = inputs()
    nets = [attached(together=together, dropout=0.3) for together in (False, True)]
    for net in nets:
        lora.dropping(net, enabled=True)
        assert any(isinstance(each, PlacedDropout) and each.training for each in net.modules())
    assert all(torch.equal(a, b) for a, b in zip(*(results(net, x) for net in nets), strict=True))


@pytest.mark.parametrize("kind", [None, "int8", "nf4"])
def test_a_checkpoint_gives_the_same_to_the_bit_and_leaves_nothing(kind: Any):
    x, _ = inputs()
    net = attached(together=True)
    if kind:
        freeze(net, NAMES, kind)
    plain = results(net, x)
    run = Checkpoint(net.forward)
    made = run(x)
    again = [made, *torch.autograd.grad(made.square().sum(), [x, *lora.trained(net)])]
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert left(net) == 0


def test_under_autocast_they_share_one_copy():
    x, _ = inputs()
    net, other = attached(together=True), attached(together=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert off([net(x).float()], [other(x).float()]) < 1e-2


def test_what_a_failed_step_leaves_is_let_go():
    x, _ = inputs()
    net = attached(together=True)
    net.to_q(x)
    assert left(net) == 3  # the input, and what k and v would have read
    lora.forget(net)
    assert left(net) == 0
    assert off(results(net, x), results(attached(together=False), x)) < 1e-6


def test_checkpoints_are_named_as_ever():
    one, other = attached(together=True), attached(together=False)
    assert list(get_state(lora.named(one))) == list(get_state(lora.named(other)))
    assert list(one.state_dict()) == list(other.state_dict())
