from typing import Any

import torch
from torch import nn

from limner.nn.anatomy import Anatomy
from limner.nn.checkpointing import Checkpoint, Tail
from limner.nn.engine import equip

ANATOMY = Anatomy(blocks=("blocks.*",), tails=("blocks.*.1",))


def _model() -> Any:
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3))
    return model


def _forwards(model: nn.Module) -> list[Any]:
    return [vars(module).get("forward") for module in model.modules()]


def test_the_first_blocks_are_checkpointed_and_closing_leaves_no_trace() -> None:
    model = _model()
    engine = equip(model, ANATOMY, checkpointed=2)
    assert [type(vars(block).get("forward")) for block in model.blocks] == [
        Checkpoint,
        Checkpoint,
        type(None),
    ]
    assert isinstance(vars(model.blocks[0][1])["forward"], Tail)
    engine.close()
    engine.close()
    assert not any(_forwards(model))


def test_a_model_is_equipped_again_with_another_plan() -> None:
    model, x = _model(), torch.ones(1, 2)
    plain = model.blocks[0](x)
    for checkpointed in (0, 3, 1):
        engine = equip(model, ANATOMY, checkpointed=checkpointed, tail_skip=False)
        assert sum(isinstance(run, Checkpoint) for run in _forwards(model)) == checkpointed
        assert torch.equal(model.blocks[0](x), plain)
        engine.close()
