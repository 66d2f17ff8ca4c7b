"""Adapters of a file made into another kind."""

import pytest
import torch
from safetensors.torch import save_file

from limner.errors import BadLora, BadUsage
from limner.lora.adapters import Lokr, to_lora
from limner.lora.nearest import KIND_NAMES
from limner.lora.recasting import Recast, flatten, flattened, recast
from loras import dora, factors, loha, lokr
from messages import raises
from small import Told

MODULES = {"img_in": factors(), "txt_in": loha(), "time_in": lokr()}


def test_any_kind_becomes_a_plain_lora() -> None:
    weight = torch.randn(8, 8)
    made, relative = flattened(dora(), weight, 8)
    assert torch.allclose(made.dense(), dora().over(weight) - weight, atol=1e-5)
    assert relative < 1e-6
    _, lost = flattened(dora(), weight, 1)
    assert 0 < lost < 1
    assert flattened(loha(), None, 99)[1] < 1e-7


@pytest.fixture
def base(tmp_path):
    tensors = {f"{name}.weight": torch.randn(8, 8) for name in ("img_in", "txt_in", "proj_out")}
    save_file(tensors, tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def recast_to(kind: str, modules=MODULES, base=None, **more):
    wanted = Recast(kind=kind, **more)  # pyright: ignore
    return recast({"transformer": modules}, wanted, base, "qwen-image", Told())


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_each_kind_becomes_each_other(kind: str) -> None:
    adapters, losses = recast_to(kind, rank=4)
    sames = {"lora": "img_in", "loha": "txt_in", "lokr": "time_in"}
    assert adapters["transformer"][sames[kind]] is MODULES[sames[kind]]
    assert {loss.module for loss in losses} == MODULES.keys() - {sames[kind]}
    for loss in losses:
        before, after = to_lora(MODULES[loss.module]).dense(), adapters["transformer"][loss.module]
        assert type(after) is type(MODULES[sames[kind]])
        error = (before - to_lora(after).dense()).norm() / before.norm()
        assert loss.relative == pytest.approx(error.item(), abs=1e-6)
        assert loss.size == pytest.approx(before.norm().item(), rel=1e-5)
    if kind == "lora":
        assert max(loss.relative for loss in losses) < 1e-5, "rank 2 x 2"


def test_a_rank_or_factor_of_its_own_is_taken_for_the_same_kind() -> None:
    adapters, losses = recast_to("lokr", {"time_in": lokr()}, factor=4)
    change = adapters["transformer"]["time_in"]
    assert isinstance(change, Lokr)
    assert change.w1[0].shape == (2, 2), "4 divides 8, and 2 is the smaller side"
    assert losses[0].relative < 1e-6
    (loss,) = recast_to("lora", {"img_in": factors()}, rank=1)[1]
    assert (loss.rank, loss.relative > 0.1) == (1, True)


def test_a_lora_as_a_dora_changes_the_same(base) -> None:
    adapters, losses = recast_to("dora", {"img_in": factors(), "txt_in": loha()}, base, rank=4)
    assert max(loss.relative for loss in losses) < 1e-5
    back, _ = flatten(adapters, 4, base, "qwen-image", Told())
    assert torch.allclose(back["transformer"]["img_in"].dense(), factors().dense(), atol=1e-4)  # pyright: ignore


def test_what_lacks_a_base_is_refused(base) -> None:
    with raises(BadUsage):
        recast_to("dora")
    with raises(BadLora):
        recast_to("lokr", {"img_in": dora()})
    with raises(BadLora):
        recast_to("dora", {"time_in": factors()}, base)
    with raises(BadUsage):
        Recast(kind="lokr", rank=0)
    with raises(BadUsage):
        flatten({}, 0, None, None, Told())
    assert KIND_NAMES == ("lora", "loha", "lokr", "dora")
