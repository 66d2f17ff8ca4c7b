import json
from pathlib import Path

import pytest

from limner.importing.documented import WORDS, meaning
from limner.importing.importer import import_recipe
from limner.recipe.aliases import ANSWERS, SPELLINGS


@pytest.mark.parametrize(
    ("leaf", "outcome"),
    [
        ("use_gradient_checkpointing", "the plan decides"),
        ("sdnq_group_size", "the plan decides"),
        ("remove_prefix_in_ckpt", "always so"),
        ("loraplus_lr_ratio", "cannot be had"),
        ("stop_text_encoder_training_pct", "cannot be had"),
        ("num_frames", "off"),
    ],
)
def test_documented_keys_have_a_meaning(leaf: str, outcome: str):
    assert (meaning(leaf) or ("",))[0] == outcome


def test_a_key_of_nobody_has_none():
    assert meaning("frobnicate") is None and meaning("my_num_frames_too") is None


def test_a_name_has_one_meaning_and_none_that_a_recipe_has():
    names = [name for _, _, words in WORDS for name in words.split()]
    assert len(names) == len(set(names))
    assert not [name for name in names if name in SPELLINGS or name in ANSWERS]


def test_a_key_without_effect_is_off_and_one_with_effect_is_named(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"LoRA_type": "Standard", "stop_text_encoder_training": 0, "loraplus_lr_ratio": 16})
    )
    rows = {row.key: row.outcome for row in import_recipe(path).rows}
    assert rows["stop_text_encoder_training"] == "off" and rows["loraplus_lr_ratio"] == "cannot be had"
