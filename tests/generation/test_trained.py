from pathlib import Path

import messages
from limner.errors import BadUsage
from limner.generation.trained import lora_of, trained_of
from limner.recipe import toml
from limner.recipe.schema import Recipe
from limner.recipe.toml import change


def test_a_run_of_token_vectors_is_no_further_lora(tmp_path: Path):
    alone = change(Recipe(), {"train.method": "inversion", "data.trigger": "<mimo>"})
    (tmp_path / "recipe.toml").write_text(toml.dump(alone))
    with messages.raises(BadUsage):
        lora_of(tmp_path)
    with messages.raises(BadUsage):
        lora_of(tmp_path / "none.safetensors")


def test_a_whole_base_brings_no_lora(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(toml.dump(change(Recipe(), {"train.method": "full"})))
    with messages.raises(BadUsage):
        lora_of(tmp_path)
    (tmp_path / "model").mkdir()
    assert trained_of(tmp_path, None, "").main is None
