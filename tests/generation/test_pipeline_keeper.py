import gc
import weakref

import pytest
import torch

from limner.assembly.resolve import resolve_base
from limner.errors import DoesNotFit
from limner.generation.pipeline_keeper import PipelineKeeper
from limner.models.family import SamplingParams
from limner.planning.generation import generation_profile
from limner.recipe.schema import Recipe
from messages import raises

PARAMS = SamplingParams(width=32, height=32, steps=1)


@pytest.fixture
def base(tiny_base):
    return resolve_base(Recipe(base=str(tiny_base)))


def exhausted() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_where_memory_runs_out_the_next_stronger_plan_takes_over(base, monkeypatch):
    for name in ("CONTEXT", "WORKSPACE"):
        monkeypatch.setattr(f"limner.planning.memory.{name}", {"cuda": 0})
    monkeypatch.setattr("limner.planning.memory.GRAIN", 0)
    lines: list[str] = []
    keeper = PipelineKeeper(lines.append)
    pipe = keeper.open(base, params=PARAMS)
    keeper._profile = generation_profile(base.spec, PARAMS, 0)

    def work() -> str:
        if len(lines) < 2:
            exhausted()
        return str(pipe._execution_device)

    assert keeper.computed(work) == "cpu"
    assert len(lines) == 2 and all(
        line.startswith("Out of memory. Going on with model off") for line in lines
    )
    assert "block swap: " in lines[1] and " of 3 blocks in CPU RAM" in lines[1]
    with raises(DoesNotFit):
        keeper.computed(exhausted)
    assert len(lines) == 2 and not keeper.release()


def test_a_pipeline_that_was_alive_at_a_late_import_is_given_back_all_the_same(base):
    keeper = PipelineKeeper()
    model = keeper.open(base, params=PARAMS).transformer
    weights = [weakref.ref(weight) for weight in model.parameters()]
    gc.freeze()
    assert len(weights) > 10 and keeper.release()
    assert not any(weight() is not None for weight in weights)
    assert all(weight.is_meta for weight in model.parameters())
