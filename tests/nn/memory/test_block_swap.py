import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from equipping import equip
from limner.errors import BrokenGraph
from limner.nn.arch import ArchSpec
from limner.nn.layers.quantized_linear import freeze
from limner.nn.memory import block_swap
from limner.nn.memory.block_swap import BlockSwapper, CopyStream, Slot
from limner.nn.memory.host_buffer import HostBuffer, ordinary
from messages import raises

CPU = torch.device("cpu")
ARCH = ArchSpec(blocks=("blocks.*",), tails=("blocks.*.last",))
WIDTH = 16


class Block(nn.Module):
    """Norm with weights of its own, a trained factor, a frozen layer, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.low = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.last = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, shared: Tensor) -> Tensor:
        y = self.norm(x) * shared
        return x + self.last(F.gelu(self.wide(y) + self.low(y).repeat(1, 2)))


def _model(blocks: int = 5) -> Any:
    torch.manual_seed(0)
    model: Any = nn.Module()
    model.blocks = nn.ModuleList(Block() for _ in range(blocks))
    model.requires_grad_(requires_grad=False)
    for block in model.blocks:
        block.low.requires_grad_()
    return model


def _step(model: Any, rows: Sequence[int] = (3, 5)) -> list[Tensor]:
    """Losses and gradients over micro-batches of so many rows. All blocks read one trained vector."""
    for parameter in model.parameters():
        parameter.grad = None
    losses = []
    for count in rows:
        shared = torch.linspace(0.5, 1.5, WIDTH).requires_grad_() * 1
        x = torch.linspace(-1, 1, count * WIDTH).view(count, WIDTH)
        for block in model.blocks:
            x = block(x, shared=shared)
        loss = x.square().sum()
        loss.backward()
        losses.append(loss.detach())
    return losses + [p.grad for p in model.parameters() if p.requires_grad]


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("checkpointed", [0, 3, 5])
def test_one_step_copies_each_block_as_often_as_it_is_not_there_and_never_late(checkpointed: int) -> None:
    model = _model()
    plain = _step(model)
    engine = equip(model, ARCH, device=CPU, streamed=range(5), checkpointed=checkpointed)
    assert engine.swapper
    assert _same(plain, _step(model)) and engine.swapper.stats.late == 1, "but for the very first"
    before = engine.swapper.stats.copies
    assert before == 2 + 4 * 3
    assert _same(plain, _step(model))
    assert engine.swapper.stats.copies - before == 4 * 3, "the last two are there when the gradient begins"
    assert engine.swapper.stats.late == 1
    engine.close()
    assert _same(plain, _step(model))


def test_between_passes_without_gradient_the_first_block_is_fetched_again_in_time() -> None:
    model, x = _model(), torch.ones(2, WIDTH)
    engine = equip(model, ARCH, device=CPU, streamed=range(5), slots=3)
    assert engine.swapper
    with torch.no_grad():
        for _ in range(3):
            for block in model.blocks:
                block(x, x)
    assert (engine.swapper.stats.late, engine.swapper.stats.copies) == (1, 17)
    plain = _step(_model())
    assert _same(plain, _step(model)), "and a step after a measurement is as it was"


def test_a_pass_whose_gradient_is_never_asked_for_does_no_harm() -> None:
    model = _model()
    plain = _step(model)
    equip(model, ARCH, device=CPU, streamed=range(5), checkpointed=2)
    model.blocks[0](torch.ones(1, WIDTH), torch.ones(WIDTH))
    with contextlib.suppress(RuntimeError):
        model.blocks[0](torch.ones(1, WIDTH + 1), torch.ones(WIDTH))
    assert _same(plain, _step(model))


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
def test_quantised_bytes_are_streamed_as_they_are_stored(kind: Any) -> None:
    model = _model()
    freeze(model, [f"blocks.{n}.{name}" for n in range(5) for name in ("wide", "last")], kind)
    plain = _step(model)
    engine = equip(model, ARCH, device=CPU, streamed=range(5), checkpointed=3)
    assert engine.swapper and engine.swapper.buffers[0].bytes < 4 * 4 * WIDTH * WIDTH
    assert _same(plain, _step(model)) and _same(plain, _step(model))
    engine.close()
    assert _same(plain, _step(model))


def test_under_autocast_the_bits_are_the_same_too() -> None:
    model = _model()
    with torch.autocast("cpu", torch.bfloat16):
        plain = _step(model)
        equip(model, ARCH, device=CPU, streamed=range(1, 5), checkpointed=3)
        assert _same(plain, _step(model))


def test_a_slot_that_a_gradient_reads_goes_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    swapper = BlockSwapper(
        [HostBuffer(block, ordinary) for block in _model().blocks], CopyStream(CPU, in_thread=False), 2
    )
    for block in (3, 4):
        swapper.need(block, upwards=True).busy = True
    with raises(BrokenGraph):
        swapper.need(0, upwards=False)
    swapper.begin()
    assert swapper.need(0, upwards=False).block == 0
    monkeypatch.setattr(
        block_swap, "register_multi_grad_hook", lambda *_: None
    )  # nobody tells: all stay busy
    model = _model()
    equip(model, ARCH, device=CPU, streamed=range(5), checkpointed=5)
    with raises(BrokenGraph):
        _step(model)


def test_a_slot_overwritten_too_early_shows_in_the_gradient() -> None:
    """That the laws can fail: a block whose bytes are not its own gives other numbers."""
    model = _model()
    plain = _step(model)
    engine = equip(model, ARCH, device=CPU, streamed=range(5), checkpointed=5)
    swapper = engine.swapper
    assert swapper
    need = swapper.need

    def hasty(block: int, **how: Any) -> Slot:
        slot = need(block, **how)
        if not how["upwards"]:
            slot.room.copy_(swapper.buffers[(block + 1) % 5].rest)
        return slot

    swapper.need = hasty  # type: ignore[method-assign]
    assert not _same(plain, _step(model))


def test_weights_are_seen_on_the_host_while_their_block_is_away() -> None:
    model = _model()
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    equip(model, ARCH, device=CPU, streamed=range(5))
    _step(model)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_a_copy_in_a_thread_that_fails_is_heard() -> None:
    copy_stream = CopyStream(CPU, in_thread=True)
    arrived = copy_stream.copy(torch.ones(4, dtype=torch.uint8), torch.ones(3, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="size"):
        arrived()
    copy_stream.close()


class Device:
    """Stands for CUDA's streams: what was asked of them, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        monkeypatch.setattr(torch.cuda, "Stream", lambda *_: Queue("copies", self.log))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: Queue("compute", self.log))
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())


class Queue:
    """A stream's name, and the log."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_event(self) -> str:
        self.log.append(f"{self.name} marks")
        return f"mark of {self.name}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


def test_on_a_device_copies_wait_for_readers_and_readers_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    copy_stream = CopyStream(torch.device("cuda"), in_thread=False)
    target = torch.zeros(4, dtype=torch.uint8)
    arrived: Callable[[], None] = copy_stream.copy(torch.ones(4, dtype=torch.uint8), target)
    assert target.all()
    copied = ["compute marks", "copies waits for mark of compute", "copies marks"]
    assert device.log == copied
    arrived()
    copy_stream.close()
    assert device.log[3:] == ["compute waits for mark of copies", "host waits for copies"]
