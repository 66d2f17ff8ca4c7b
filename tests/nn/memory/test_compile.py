from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from adapter_kinds import CASES, moved
from equipping import equip
from limner.errors import BadRecipe
from limner.nn.arch import ArchSpec
from limner.nn.layers import lora
from limner.nn.layers.kinds import kind_of
from limner.nn.layers.quantized_linear import freeze
from limner.nn.memory import engine
from messages import raises

CPU = torch.device("cpu")
ARCH = ArchSpec(blocks=("blocks.*",), modulations=("blocks.*.adaln",), conditions=("embed",))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.adaln, self.mix, self.low = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return x + self.adaln(vector)[:, None] * (self.mix(x) + self.low(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.blocks = nn.Linear(1, 4), nn.ModuleList(Block() for _ in range(4))
        self.requires_grad_(requires_grad=False)
        for block in self.blocks:
            block.get_submodule("low").requires_grad_()


def _step(model: Any, tokens: int) -> list[Tensor]:
    vector = model.embed(torch.tensor([[0.3], [0.6]]))
    x = torch.linspace(-1, 1, 2 * tokens * 4).view(2, tokens, 4).requires_grad_()
    for block in model.blocks:
        x = block(x, vector)
    return list(torch.autograd.grad(x.square().sum(), [p for p in model.parameters() if p.requires_grad]))


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    counted = CompileCounter()
    monkeypatch.setattr(engine, "BACKEND", counted)
    torch.compiler.reset()
    yield counted
    torch.compiler.reset()


@pytest.mark.parametrize(
    "plan", [{}, {"checkpointed": 2}, {"streamed": range(4)}, {"streamed": range(1, 4), "checkpointed": 3}]
)
def test_one_program_serves_all_blocks_and_all_sizes(counter: CompileCounter, plan: dict[str, Any]) -> None:
    model = Model()
    plain = {tokens: _step(model, tokens) for tokens in (5, 9, 7)}
    equip(model, ARCH, device=CPU, compile=True, **plan)
    for tokens, wanted in plain.items():
        assert all(map(torch.equal, wanted, _step(model, tokens)))
    assert counter.frame_count == 1, "neither block by block, nor size by size, nor slot by slot"


def test_modulations_are_computed_ahead_outside_the_program(counter: CompileCounter) -> None:
    model = Model()
    plain = _step(model, 5)
    equip(model, ARCH, device=CPU, compile=True, hoist=True, checkpointed=2)
    assert all(map(torch.equal, plain, _step(model, 5))) and all(map(torch.equal, plain, _step(model, 5)))
    assert counter.frame_count >= 1


@pytest.mark.filterwarnings(  # of torch's own tracer
    "ignore:.*should not be instantiated:DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)
@pytest.mark.parametrize("case", ["lora", "loha", "lokr-factor", "dora"])
def test_every_kind_of_adapter_trains_in_a_program_on_streamed_quantised_weights(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """With a true backward graph: what it keeps of streamed weights is brought back."""
    monkeypatch.setattr(engine, "BACKEND", "aot_eager")
    torch.compiler.reset()
    model = Model()
    model.requires_grad_(requires_grad=False)
    names = [f"blocks.{number}.mix" for number in range(4)]
    freeze(model, names, "int8")
    lora.attach(model, names, rank=2, alpha=3.0, dropout=0.0, seed=1, kind=kind_of(**CASES[case]))
    moved(model)
    plain = _step(model, 5)
    assert len(plain) >= 8 and all(gradient.any() for gradient in plain)
    equip(model, ARCH, device=CPU, compile=True, streamed=range(4), checkpointed=2)
    assert all(map(torch.equal, plain, _step(model, 5)))
    torch.compiler.reset()


def test_compiled_blocks_do_not_keep_attention() -> None:
    with raises(BadRecipe):
        equip(Model(), ARCH, device=CPU, compile=True, keep_attention=True)


def test_sizes_that_vary_are_marked_by_what_a_tensor_is() -> None:
    tokens, image, vector, table = (
        torch.ones(2, 5, 3),
        torch.ones(2, 3, 4, 5),
        torch.ones(2, 3),
        torch.ones(5, 3),
    )
    for each in (tokens, image, vector, (table, table, 1), None):
        engine.mark(each)
    marked = [getattr(each, "_dynamo_weak_dynamic_indices", set()) for each in (tokens, image, vector, table)]
    assert marked == [{1}, {2, 3}, set(), {0}]


def _broken(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Any:
    def backend(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(engine, "BACKEND", backend)
    torch.compiler.reset()
    model = Model()
    equip(model, ARCH, device=CPU, compile=True)
    return model


def test_a_machine_that_cannot_compile_is_told_how_to_go_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _broken(monkeypatch, RuntimeError("Failed to find C compiler.\nmore"))
    with raises(BadRecipe):
        _step(model, 5)


def test_memory_that_runs_out_while_it_compiles_is_that(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _broken(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        _step(model, 5)
