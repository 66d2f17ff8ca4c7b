import re
import subprocess
import sys
from typing import get_args

import pytest

from limner.errors import BadRecipe
from limner.models.presets import SIZES, SOURCES, choices, preset, preset_name
from limner.models.registry import families
from limner.recipe import ConceptType, Recipe
from limner.recipe.toml import change, commented, get, parse

CONCEPT_TYPES = get_args(ConceptType)


@pytest.mark.parametrize("family", [*families(), "glyph", ""])
@pytest.mark.parametrize("concept", CONCEPT_TYPES)
def test_each_preset_is_a_valid_recipe_and_every_value_has_a_source(concept, family):
    for images in (1, *SIZES, *(size + 1 for size in SIZES)):
        recipe = preset(concept, family, images)
        chosen = choices(concept, family, images)
        assert recipe.concept_type == concept
        for path, choice in chosen.items():
            assert get(recipe, path) == choice.value
            assert any(re.search(rf"\b{name}\b", choice.source) for name in SOURCES), choice.source
        text = commented(recipe, {path: choice.source for path, choice in chosen.items()})
        assert parse(text) == recipe


@pytest.mark.parametrize("family", [*families(), "glyph", ""])
@pytest.mark.parametrize("concept", CONCEPT_TYPES)
def test_more_images_never_mean_fewer_looks(concept, family):
    recipes = [preset(concept, family, images) for images in (10, 25, 100, 101)]
    seen = [recipe.train.steps * recipe.train.batch for recipe in recipes]
    assert seen == sorted(seen)


def test_the_size_of_a_folder_counts_up_to_and_including():
    assert preset("face", "flux", 10) == preset("face", "flux", 1)
    assert preset("face", "flux", 11) != preset("face", "flux", 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pet", "flux", 3), r'concept_type is "pet"; it must be one of subject'),
        (
            ("face", "sd9", 3),
            r'family "sd9"\. Known: .*flux, flux2, .*ideogram4, krea2, qwen-image',
        ),
        (("face", "flux", 0), "at least 1 image"),
    ],
)
def test_presets_that_there_are_not(arguments, message):
    with pytest.raises(BadRecipe, match=message):
        preset(*arguments)


def test_a_recipe_loads_no_torch():
    code = (
        "import sys; from limner.models import presets; from limner.recipe import toml; "
        "sys.exit(bool({'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("family", ["flux", "glyph"])
def test_of_a_preset_for_all_weights_nothing_of_the_lora_is_left(family):
    lora, full = preset("subject", family, 10), preset("subject", family, 10, "full")
    assert full.train.method == "full" and full.lora == Recipe().lora
    assert full.train.learning_rate == lora.train.learning_rate / 10
    assert full.train.steps == lora.train.steps


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("glyph", "glyph"),
        ("flux-dev", "flux"),
        ("flux2-klein-4b", "flux2"),
        ("sdxl", "sdxl"),
        ("sd35-medium", "sd3"),
        ("z-image-turbo", "z-image"),
        ("qwen-image", "qwen-image"),
        ("qwen-image-2.1-turbo", "qwen-image-21"),
        ("someone/Qwen-Image-2.1-cats", "qwen-image-21"),
        ("anima", "anima"),
        ("hidream-i1-fast", "hidream"),
        ("HiDream-ai/HiDream-I1-Full", "hidream"),
        ("circlestone-labs/Anima-Base-v1.0-Diffusers", "anima"),
        ("cagliostrolab/animagine-xl-4.0", "sdxl"),
        ("krea2-turbo", "krea2"),
        ("krea/Krea-2-Raw", "krea2"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("black-forest-labs/FLUX.1-dev", "flux"),
        ("someone/my-sd15-finetune", "sd15"),
        ("own/er", ""),
    ],
)
def test_the_kind_of_a_base_is_told_by_its_name(base, kind):
    assert preset_name(base) == kind


def test_the_kind_of_a_folder_is_told_by_its_index(tiny_base, tmp_path):
    assert preset_name(str(tiny_base)) == "flux"
    (tmp_path / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    assert preset_name(str(tmp_path)) == "z-image"
    (tmp_path / "model_index.json").write_text("[]")
    assert preset_name(str(tmp_path)) == "", "what is wrong with it is told when it is opened"


def test_a_fine_tune_of_the_embedded_base_is_of_its_kind(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (tmp_path / "limner.json").write_text('{"name": "glyph", "resolution": 64}')
    assert preset_name(str(tmp_path)) == "glyph"


def test_a_preset_for_a_slider_waits_for_its_prompts():
    recipe = preset("subject", "flux", 30, objective="slider")
    assert recipe.train.objective == "denoise" and recipe.data.caption_dropout == 0
    slider = change(recipe, {"train.objective": "slider", "slider.positive": "[Neutral], red"})
    assert slider.slider.texts("a cat") == ("a cat, red", "")


@pytest.mark.parametrize("family", ["", "flux", "z-image"])
def test_a_preset_for_distillation_keeps_to_what_it_has(family):
    recipe = preset("subject", family, 30, objective="distill")
    assert recipe.train.objective == "distill" and recipe.data.caption_dropout == 0
    assert "data.caption_dropout" in choices("subject", family, 30)
    assert "data.caption_dropout" not in choices("subject", family, 30, objective="distill")
