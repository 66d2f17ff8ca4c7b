from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equipping import equip
from limner.errors import BadRecipe, BrokenGraph
from limner.nn.arch import ArchSpec
from limner.nn.layers import lora
from limner.nn.layers.quantized_linear import freeze
from limner.nn.memory.engine import Engine
from messages import raises

CPU = torch.device("cpu")
WIDTH = 8
ARCH = ArchSpec(blocks=("blocks.*",), modulations=("blocks.*.adaln",), conditions=("embed",))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.adaln, self.mix = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, gate = self.adaln(nn.functional.silu(vector)).chunk(2, dim=-1)
        return x + gate[:, None] * self.mix(x * (1 + scale[:, None]))


class Model(nn.Module):
    """A denoiser in small: time to a vector, blocks that are modulated by it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(1, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        vector = self.embed(time)
        for block in self.blocks:
            x = block(x, vector)
        return x


def _model(*, adapted: bool = True) -> Any:
    model = Model()
    names = [f"blocks.{n}.{name}" for n in range(3) for name in (("adaln", "mix") if adapted else ("mix",))]
    lora.attach(model, names, rank=2, alpha=2, dropout=0.0, seed=1)
    for factor in lora.trained(model):
        nn.init.normal_(factor, std=0.3, generator=torch.Generator().manual_seed(factor.numel()))
    return model


def _step(model: Any, times: Sequence[Sequence[float]] = ((0.1, 0.9), (0.5,)), *, late: bool = False) -> Any:
    """Losses and gradients; ``late``: all forward passes come before the first backward pass."""
    for parameter in model.parameters():
        parameter.grad = None
    losses = []
    for each in times:
        time = torch.tensor(each)[:, None]
        x = torch.linspace(-1, 1, len(each) * 4 * WIDTH).view(len(each), 4, WIDTH)
        losses.append(model(x, time).square().sum())
        if not late:
            losses[-1].backward()
    for loss in losses if late else ():
        loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    return [loss.detach() for loss in losses] + gradients


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def _equip(model: Any, **plan: Any) -> Engine:
    return equip(model, ARCH, device=CPU, hoist=True, **plan)


@pytest.mark.parametrize("checkpointed", [0, 2, 3])
@pytest.mark.parametrize("adapted", [True, False])
def test_modulations_computed_ahead_change_nothing(checkpointed: int, *, adapted: bool) -> None:
    model = _model(adapted=adapted)
    plain = _step(model)
    engine = _equip(model, checkpointed=checkpointed)
    assert _same(plain, _step(model)) and _same(plain, _step(model))
    engine.close()
    assert _same(plain, _step(model))


def test_a_block_computed_again_finds_the_pass_that_it_belongs_to() -> None:
    model = _model()
    plain = _step(model, late=True)
    _equip(model, checkpointed=3)
    assert _same(plain, _step(model, late=True))


def test_the_weights_are_read_once_per_pass_and_not_where_they_act() -> None:
    model = _model()
    engine = _equip(model, checkpointed=3)
    hoist = engine.hoist
    assert hoist and hoist.room.numel() == max(buffer.bytes for buffer in hoist.buffers)
    read: list[int] = []
    for number, run in enumerate(hoist.runs):
        hoist.runs[number] = lambda x, number=number, run=run: read.append(number) or run(x)
    _step(model)
    assert read == [0, 1, 2] * 2, "two passes; none again for the gradient"


def test_quantised_modulations_are_computed_ahead_too() -> None:
    model = Model().requires_grad_(requires_grad=False)
    for block in model.blocks:
        block.mix.requires_grad_()
    freeze(model, [f"blocks.{n}.adaln" for n in range(3)], "int8")
    plain = _step(model)
    _equip(model)
    assert _same(plain, _step(model))


@pytest.mark.parametrize("trained", ["embed", "blocks.1.adaln"])
def test_what_is_trained_cannot_be_computed_ahead(trained: str) -> None:
    model = _model(adapted=False)
    model.get_submodule(trained).requires_grad_()
    with pytest.raises(BadRecipe, match=f"{trained} is trained, .* set hoist off"):
        _equip(model)
    _step(model)
    assert not any("forward" in vars(module) for module in model.modules()), "and nothing was changed"


def test_an_embedder_that_reads_something_trained_is_noticed_in_the_first_pass() -> None:
    model = _model()
    _equip(model)
    pooled = torch.tensor([[0.3]], requires_grad=True)
    with raises(BadRecipe):
        model(torch.ones(1, 4, WIDTH), pooled)


def test_a_modulation_that_reads_another_vector_is_noticed() -> None:
    model = _model()
    engine = _equip(model)
    first, second = model.blocks[0].adaln, model.blocks[1].adaln
    model.embed(torch.ones(1, 1))
    first(torch.ones(1, WIDTH))
    with raises(BrokenGraph):
        second(torch.zeros(1, WIDTH))
    engine.close()
    _equip(model)
    _step(model)
    with raises(BrokenGraph):
        second(torch.ones(5, WIDTH))


def test_a_model_without_modulations_has_nothing_to_compute_ahead() -> None:
    engine = equip(_model(), ArchSpec(blocks=("blocks.*",)), device=CPU, hoist=True)
    assert engine.hoist is None


class TwiceTimed(Model):
    """Blocks that are told two times of each image, the first of which ends it: Qwen-Image-Edit's."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        vector = self.embed(torch.cat([time, 0 * time]))
        for block in self.blocks:
            x = block(torch.cat([x, x]), vector).chunk(2)[0]
        return x + self.end(nn.functional.silu(vector.chunk(2)[0]))[:, None]


def test_a_modulation_may_read_the_first_of_the_vectors_alone():
    arch = ArchSpec(blocks=("blocks.*",), modulations=("blocks.*.adaln", "end"), conditions=("embed",))
    model = TwiceTimed().requires_grad_(requires_grad=False)
    time = torch.linspace(0.1, 0.9, 4)[:, None]  # as many as make whole vectors of silu
    x = torch.linspace(-1, 1, 16 * WIDTH).view(4, 4, WIDTH)
    wanted = model(x, time)
    equip(model, arch, device=CPU, hoist=True)
    assert torch.equal(model(x, time), wanted)
