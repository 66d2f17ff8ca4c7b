from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from limner.errors import BrokenGraph
from limner.nn.layers import quantized_linear
from limner.nn.layers.quantization import dequantize
from limner.nn.layers.quantized_linear import freeze
from limner.nn.memory import checkpointing
from limner.nn.memory.checkpointing import KERNELS, Checkpoint, Tail, placed, unread
from limner.nn.rng import PlacedDropout, Places
from messages import raises

WIDTH = 8


class Block(nn.Module):
    """Attention, then a gated product whose output nothing reads but the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.low = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.last = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.requires_grad_(requires_grad=False)
        self.low.requires_grad_()
        self.behind: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor, *, gate: Tensor) -> Tensor:
        q, k, v = (each.unflatten(-1, (2, -1)).transpose(1, 2) for each in (self.read(x), self.low(x), x))
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + gate * self.behind(self.last(F.gelu(self.wide(x))))


@pytest.fixture(autouse=True)
def unwritten_numbers_are_nan() -> Iterator[None]:
    """Whoever reads what was left out spreads NaN."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


def _gradients(block: Block, run: Callable[..., Tensor], gate: Tensor | None = None) -> list[Tensor]:
    """Loss, and its gradient by the input, the trained layer and the gate."""
    gate = torch.full((1, 1, WIDTH), 0.7) if gate is None else gate
    x = torch.linspace(-1, 1, 3 * WIDTH).sin().view(1, 3, WIDTH).requires_grad_()
    loss = run(run(x, gate=gate), gate=gate).square().sum()
    wanted = [x, *block.low.parameters()] + ([gate] if gate.requires_grad else [])
    return [loss, *torch.autograd.grad(loss, wanted)]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def _block() -> Any:
    torch.manual_seed(0)
    return Block()


class Rows:
    """Counts the rows of the products that a tail computes."""

    def __init__(self, tail: Tail) -> None:
        self.counted, self.inner = [], tail.run
        tail.run = self

    def __call__(self, x: Tensor) -> Tensor:
        self.counted.append(x.shape[-2])
        return self.inner(x)


def test_the_last_product_is_left_out_the_second_time_and_no_gradient_changes() -> None:
    block = _block()
    plain = _gradients(block, block)
    block.last.forward = tail = Tail(block.last)
    rows = Rows(tail)
    assert _same(plain, _gradients(block, Checkpoint(block)))
    assert rows.counted == [3, 3, 0, 0]


def test_a_gate_that_needs_a_gradient_reads_the_last_product_so_it_is_computed() -> None:
    block, gate = _block(), torch.full((1, 1, WIDTH), 0.7, requires_grad=True)
    plain = _gradients(block, block, gate)
    block.last.forward = tail = Tail(block.last)
    rows = Rows(tail)
    assert _same(plain, _gradients(block, Checkpoint(block), gate))
    assert rows.counted == [3, 3, 3, 3]


@pytest.mark.parametrize(
    "behind", [torch.tanh, torch.exp, lambda x: F.rms_norm(x, (WIDTH,)), lambda x: x * x]
)
def test_whatever_keeps_the_last_product_for_its_gradient_has_it_computed(
    behind: Callable[[Tensor], Tensor],
) -> None:
    block = _block()
    block.behind = behind
    plain = _gradients(block, block)
    block.last.forward = tail = Tail(block.last)
    rows = Rows(tail)
    assert _same(plain, _gradients(block, Checkpoint(block)))
    assert rows.counted == [3, 3, 3, 3]


def test_leaving_out_what_is_read_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is what keeps the gradients right: without it they are not."""
    monkeypatch.setattr(checkpointing, "unread", lambda node, ends: True)
    block = _block()
    block.behind = torch.tanh
    block.last.forward = Tail(block.last)
    assert any(each.isnan().any() for each in _gradients(block, Checkpoint(block)))


@pytest.mark.parametrize(
    ("through", "harmless"),
    [
        (lambda x, c: x + c, True),
        (lambda x, c: c - x, True),
        (lambda x, c: (x * 2).to(torch.float64)[..., :2], True),
        (lambda x, c: torch.cat([x, c], -1).unsqueeze(0).transpose(0, 1), True),
        (lambda x, c: c.detach() * x / c.detach(), True),
        (lambda x, c: torch.addmm(x, c, c), True),
        (lambda x, c: (x + c) + x.tanh(), False),
        (lambda x, c: x.tanh() + (x + c), False),
        (lambda x, c: c * x, False),
        (lambda x, c: c / x, False),
        (lambda x, c: torch.addmm(c, x, c), False),
        (lambda x, c: x.clamp(-1, 1), False),
        (lambda x, c: F.layer_norm(x + c, (4,)), False),
    ],
)
def test_the_proof_knows_who_keeps_what(through: Callable[..., Tensor], harmless: bool) -> None:  # noqa: FBT001
    x, c = torch.ones(4, 4, requires_grad=True), torch.full((4, 4), 2.0, requires_grad=True)
    made = x.exp()
    assert unread(made.grad_fn, [through(made, c * 1).grad_fn]) is harmless


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_tail_is_not_even_turned_into_numbers(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    block = _block()
    freeze(block, ["last"], kind)
    plain = _gradients(block, block)
    made: list[tuple[int, int]] = []

    def counted(stored: Any, kind: Any, shape: tuple[int, int], *how: Any) -> Tensor:
        made.append(shape)
        return dequantize(stored, kind, shape, *how)

    monkeypatch.setattr(quantized_linear, "dequantize", counted)
    for skip, count in ((False, 6), (True, 4)):  # two blocks forward and backward; again, or not
        if skip:
            block.last.forward = Tail(block.last)
        assert _same(plain, _gradients(block, Checkpoint(block)))
        assert len(made) == count
        made.clear()


def test_attention_that_is_kept_is_computed_once() -> None:
    block = _block()
    plain = _gradients(block, block)
    for keep, runs in ((False, 4), (True, 2)):
        with _Kernels() as kernels:
            assert _same(plain, _gradients(block, Checkpoint(block, keep_attention=keep)))
        assert kernels.runs == runs


class _Kernels(TorchDispatchMode):
    """Counts how often attention is computed; sees backward passes too."""

    runs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.runs += func in KERNELS
        return func(*args, **(kwargs or {}))


def test_all_together_and_without_gradient() -> None:
    block = _block()
    plain = _gradients(block, block)
    block.last.forward = Tail(block.last)
    run = Checkpoint(block, keep_attention=True)
    assert _same(plain, _gradients(block, run))
    gate = torch.ones(1, 1, WIDTH)
    with torch.no_grad():
        assert torch.equal(run(torch.ones(1, 3, WIDTH), gate=gate), block(torch.ones(1, 3, WIDTH), gate=gate))


def test_dropout_drops_the_same_again_though_the_places_have_moved_on() -> None:
    places: Places = [(0, 1, 0)]
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), PlacedDropout(0.5, "d", places), nn.Linear(WIDTH, WIDTH))
    x = torch.linspace(-1, 1, WIDTH).view(1, WIDTH)

    def gradients(run: Callable[[Tensor], Tensor]) -> list[Tensor]:
        places[:] = [(0, 1, 0)]
        loss = run(x).square().sum()
        places[:] = [(0, 2, 0)]
        loss = loss + run(x).square().sum()
        made = [loss, *torch.autograd.grad(loss, list(model.parameters()))]
        assert places == [(0, 2, 0)]
        return made

    plain = gradients(model)
    assert _same(plain, gradients(Checkpoint(model, memory=placed(model))))
    assert not _same(plain, gradients(Checkpoint(model))), "without memory it would not"


def test_one_list_of_places_is_remembered_once() -> None:
    places: Places = []
    model = nn.Sequential(PlacedDropout(0.1, "a", places), PlacedDropout(0.1, "b", places), nn.ReLU())
    assert [each.places is places for each in placed(model)] == [True]


def test_nobody_may_walk_the_graph_of_a_second_run() -> None:
    few = torch.ones(0, 2, requires_grad=True)
    with raises(BrokenGraph):
        checkpointing._Unwritten.apply(few, (3, 2)).sum().backward()
