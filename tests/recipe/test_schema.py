from pathlib import Path

import pytest

from limner.errors import BadRecipe
from limner.recipe import Data, Lora, Recipe, Sample, Track, Train


def test_defaults_make_a_recipe_for_the_embedded_base():
    recipe = Recipe()
    assert recipe.base == "glyph"
    assert recipe.data.images == Path("images")
    assert recipe.lora.alpha is None


def test_equal_wishes_are_equal_however_they_were_written():
    assert Recipe() == Recipe(lora=Lora(rank=16), data=Data(images=Path("images/")))
    assert Lora(alpha=8) == Lora(alpha=8.0)
    assert Track(with_=("wandb",)) == Track.model_validate({"with": ["wandb"]})


def test_every_field_says_what_it_means():
    for part in (Recipe, Data, Lora, Train, Sample, Track):
        for name, field in part.model_fields.items():
            if part is not Recipe or name in ("base", "name", "concept_type", "seed"):
                assert len(field.description or "") > 10, (part, name)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lora": {"factor": 8}}, r'lora\.factor is 8, which only a LoKr has, .* lora\.kind = "lokr"'),
        (
            {"lora": {"kind": "dora", "full_matrix": True}},
            r"lora\.full_matrix is True, which only a LoKr has",
        ),
        (
            {"lora": {"text_encoder_layers": 2}},
            r"text_encoder_layers is 2, but no text encoder .* Set lora\.text_encoders",
        ),
        (
            {"train": {"warmup": 10, "steps": 10}},
            r"train\.warmup is 10 and train\.steps is 10: .* Set train\.warmup below 10",
        ),
        ({"train": {"method": "full"}, "lora": {"rank": 8}}, r'method is "full".* lora\.rank is 8\. Remove'),
        (
            {"train": {"method": "full"}, "lora": {"text_encoders": ["text_encoder"]}},
            r"every weight of the denoiser, and lora\.text_encoders is \('text_encoder',\)\. Remove",
        ),
        (
            {"train": {"method": "full"}, "export": {"for": ["diffusers", "kohya"]}},
            r'makes a whole model, and export\.for names "kohya".* `limner lora extract`',
        ),
        ({"train": {"optimizer": "prodigy"}}, r"Set train\.learning_rate = 1\.0"),
        ({"train": {"optimizer": "schedulefree", "schedule": "cosine"}}, r"replaces schedules\. Set"),
        ({"train": {"optimizer": "schedulefree", "ema": 0.9}}, r"averages the weights already\. Set"),
        ({"train": {"text_encoder_learning_rate": 1e-5}}, r"no text encoder is trained\. Set"),
        ({"data": {"validation_count": 2, "validation_images": "more"}}, r"two sources\. Remove one"),
    ],
)
def test_contradictions_are_refused_with_the_remedy(table, message):
    with pytest.raises(BadRecipe, match=message) as caught:
        Recipe.model_validate(table)
    assert "\n" not in str(caught.value)
