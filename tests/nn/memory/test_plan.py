import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.nn.memory.plan import Plan, from_json


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
