import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limner.nn.layers import quantization
from limner.nn.layers.quantization import empty, quantize
from limner.nn.memory import plan as plan_module
from limner.nn.memory.plan import Plan, coding_bytes, from_json, stored_bytes
from limner.planning.tracker import Tracker


@given(blocks=st.integers(0, 90), streamed=st.integers(0, 100))
def test_streamed_blocks_are_spread_evenly(blocks: int, streamed: int) -> None:
    chosen = Plan(swapped_blocks=streamed).swapped_of(blocks)
    assert len(set(chosen)) == len(chosen) == min(blocks, streamed)
    assert all(0 <= each < blocks for each in chosen)
    gaps = [after - before for before, after in zip(chosen, chosen[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_plan_comes_back_from_json() -> None:
    plan = Plan(weights="nf4", checkpointed_blocks=3, precompute_modulation=True, optimizer_state="8bit")
    assert from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="weights"):
        from_json({"weights": "int3"})


def test_a_plan_with_the_names_of_before_is_read() -> None:
    before = {"checkpointed": 3, "streamed": 2, "slots": 3, "mapped": True, "hoist": True, "moments": "8bit"}
    plan = Plan(checkpointed_blocks=3, swapped_blocks=2, swap_buffers=3, mmap_weights=True)
    plan = replace(plan, precompute_modulation=True, optimizer_state="8bit", matmul_precision="8bit")
    assert from_json(before | {"products": "8bit"}) == plan


CHUNK = 1 << 19
"""So many numbers at once here: tests have small weights."""


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 64), (16, 1025), (3072, 15360)])
def test_bytes_are_those_of_the_tensors(kind, shape):
    stored = empty(kind, *shape, "meta")
    assert stored_bytes(kind, *shape) == sum(t.numel() * t.element_size() for t in stored)


@pytest.mark.parametrize(("weights", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_plain_weights(weights, dtype):
    assert stored_bytes(weights, 3, 5) == torch.empty(3, 5, dtype=dtype).nbytes


def test_bits_of_a_large_weight():
    numbers = 3072 * 12288
    bits = {kind: 8 * stored_bytes(kind, 3072, 12288) / numbers for kind in ("int8", "fp8", "nf4")}
    assert bits["int8"] == bits["fp8"] == pytest.approx(8.0026, abs=1e-3)
    assert bits["nf4"] == pytest.approx(4.1289, abs=1e-3)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="not as 'int3'"):
        stored_bytes("int3", 2, 2)


@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4"])
@pytest.mark.parametrize("shape", [(64, 64), (300, 1000), (1024, 1200)])
def test_coding_takes_what_is_said(kind, shape, monkeypatch):
    """Whether a weight is coded at once or in three parts, of which none is there beside the next."""
    monkeypatch.setattr(quantization, "CHUNK", CHUNK)
    monkeypatch.setattr(plan_module, "CHUNK", CHUNK)
    with Tracker("cpu", granule=1) as seen:
        quantize(torch.ones(shape, dtype=torch.bfloat16), kind)
    given = 2 * shape[0] * shape[1]
    took = seen.peak - given - stored_bytes(kind, *shape)
    assert took == pytest.approx(coding_bytes(kind, shape[0] * shape[1]), rel=0.1)
