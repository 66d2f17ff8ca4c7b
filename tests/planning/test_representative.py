"""Who plays which block of a denoiser in a rehearsal."""

import json
from pathlib import Path

import pytest

from cases import CASES
from limner.models.bundled import known
from limner.models.loading import hush
from limner.models.registry import family_of
from limner.models.source import locate
from limner.nn.memory.plan import Plan
from limner.planning.memory import train_memory
from limner.planning.profiling import profile
from limner.planning.representative import choose_representatives
from specs import traced

CASE = {case.name: case for case in CASES}


def of_true(name: str, **wish) -> list[int] | None:
    source = known(name)
    found = choose_representatives(
        traced(family_of(source.index["_class_name"]), source, size=(512, 512), **wish)[0]
    )
    assert (found.source is source) == (found.parts is None)
    return found.parts and list(found.parts)


def test_one_block_of_each_sort_stands_for_all_of_it():
    assert of_true("flux-dev") == [0, *[1] * 17, 2, 3, *[4] * 36, 5]
    assert of_true("sd35-large") == [0, *[1] * 36, 2]
    assert of_true("sd35-medium") == [0, *[1] * 12, *[2] * 10, 3], "the first 13 attend twice"
    assert of_true("sd35-medium", full=True) == of_true("sd35-medium")


def test_what_a_config_lists_for_every_block_is_as_short_as_they_are():
    """HiDream-I1's layers of Llama, one for each block of either kind."""
    assert of_true("hidream-i1-full") == [0, *[1] * 14, 2, 3, *[4] * 30, 5]


def test_where_few_layers_learn_the_second_block_plays_itself_alone():
    assert of_true("sd35-large", targets=["ff.net.2"]) == [0, 1, *[2] * 35, 3]


def test_blocks_that_a_shallow_config_cannot_have_are_all_rehearsed():
    for number in (2, 7):
        assert of_true("sd35-large", targets=[f"transformer_blocks.{number}.attn.to_q"]) is None
    assert of_true("sdxl") is None


@pytest.mark.parametrize(
    "wish", [{}, {"targets": ["ff.net.2"]}, {"full": True}], ids=["lora", "few layers", "full"]
)
def test_blocks_of_several_sorts_are_foreseen_as_if_each_was_rehearsed(wish, tmp_path: Path):
    hush()
    family = family_of(CASE["sd3"].pipeline)
    source = locate(str(CASE["sd3"].save(tmp_path / "sd3")), folders={})
    config = source.root / "transformer" / "config.json"
    deeper = {"num_layers": 9, "dual_attention_layers": [0, 1, 2, 3]}
    config.write_text(json.dumps(json.loads(config.read_text()) | deeper))
    asked = {"size": (64, 64), "rank": 4, "compute": "fp32", **wish}
    few, every = (profile(*traced(family, source, **asked), whole=whole) for whole in (False, True))
    assert [block.trained for block in few.blocks] == [block.trained for block in every.blocks]
    assert (few.trained, few.tensors, few.idle) == (every.trained, every.tensors, every.idle)
    for count in (0, 5, 9):
        needs = [train_memory(each, Plan(checkpointed_blocks=count)).total for each in (few, every)]
        assert needs[0] == pytest.approx(needs[1], rel=1e-5)
