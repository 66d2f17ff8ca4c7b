import re
import subprocess
import sys
from typing import get_args

import pytest

from limner.errors import BadRecipe
from limner.models.presets import SIZES, SOURCES, choices, preset
from limner.recipe import Goal, Recipe
from limner.recipe.toml import commented, get, parse

GOALS = get_args(Goal)


@pytest.mark.parametrize("family", ["flux", "flux2", "glyph", "qwen-image", "sd15", "sd3", "sdxl", "z-image"])
@pytest.mark.parametrize("goal", GOALS)
def test_each_preset_is_a_valid_recipe_and_every_value_has_a_source(goal, family):
    for images in (1, *SIZES, *(size + 1 for size in SIZES)):
        recipe = preset(goal, family, images)
        chosen = choices(goal, family, images)
        assert recipe.goal == goal
        for path, choice in chosen.items():
            assert get(recipe, path) == choice.value
            assert any(re.search(rf"\b{name}\b", choice.source) for name in SOURCES), choice.source
        text = commented(recipe, {path: choice.source for path, choice in chosen.items()})
        assert parse(text) == recipe


@pytest.mark.parametrize("family", ["flux", "flux2", "glyph", "qwen-image", "sd15", "sd3", "sdxl", "z-image"])
@pytest.mark.parametrize("goal", GOALS)
def test_more_images_never_mean_fewer_looks(goal, family):
    recipes = [preset(goal, family, images) for images in (10, 25, 100, 101)]
    seen = [recipe.train.steps * recipe.train.batch for recipe in recipes]
    assert seen == sorted(seen)


def test_the_size_of_a_folder_counts_up_to_and_including():
    assert preset("face", "flux", 10) == preset("face", "flux", 1)
    assert preset("face", "flux", 11) != preset("face", "flux", 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pet", "flux", 3), r'goal is "pet"; it must be one of subject'),
        (("face", "sd9", 3), r'family "sd9"\. Known: flux, glyph, flux2'),
        (("face", "flux", 0), "at least 1 image"),
    ],
)
def test_presets_that_there_are_not(arguments, message):
    with pytest.raises(BadRecipe, match=message):
        preset(*arguments)


def test_a_recipe_loads_no_torch():
    code = (
        "import sys; from limner.models import presets; from limner.recipe import prompts, toml; "
        "sys.exit(bool({'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("family", ["flux", "glyph"])
def test_of_a_preset_for_all_weights_nothing_of_the_lora_is_left(family):
    lora, full = preset("subject", family, 10), preset("subject", family, 10, "full")
    assert full.train.method == "full" and full.lora == Recipe().lora
    assert full.train.learning_rate == lora.train.learning_rate / 10
    assert full.train.steps == lora.train.steps
