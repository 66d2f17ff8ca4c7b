import pytest

from limner.errors import BadRecipe
from limner.recipe.schema import Recipe
from messages import raises


@pytest.mark.parametrize(
    "sections",
    [
        {"distill": {"steps": 8}},
        {"train": {"objective": "distill", "noise_range": (0.2, 1.0)}},
        {"train": {"objective": "distill"}, "data": {"flip": True}},
        {"train": {"objective": "distill"}, "prior": {"prompts": ("a cat",)}},
        {"train": {"objective": "distill"}, "sample": {"guidance": 3.5}},
        {"train": {"objective": "distill"}, "distill": {"prompts": ("a",), "steps": 9, "teacher_steps": 8}},
    ],
)
def test_what_does_not_fit_distillation_is_refused(sections):
    with raises(BadRecipe):
        Recipe(**sections)


def test_samples_of_a_distilled_lora_take_its_steps_and_no_guidance():
    student = Recipe(train={"objective": "distill"}, distill={"steps": 8}, sample={"steps": 30})
    assert (student.sample_steps, student.sample_guidance) == (8, 1.0)
    plain = Recipe(sample={"steps": 30, "guidance": 2.0})
    assert (plain.sample_steps, plain.sample_guidance, plain.distill_steps) == (30, 2.0, 0)


ENDS = {"positive": "red [neutral]", "negative": "blue [neutral]"}


@pytest.mark.parametrize(
    "sections",
    [
        {"slider": ENDS},
        {"train": {"objective": "slider"}},
        {"train": {"objective": "slider"}, "slider": {"positive": "red", "negative": "red"}},
        {"train": {"objective": "slider"}, "slider": ENDS, "lora": {"kind": "dora"}},
        {"train": {"objective": "slider", "method": "full"}, "slider": ENDS},
        {"train": {"objective": "slider"}, "slider": ENDS, "data": {"trigger": "zorb"}},
        {"train": {"objective": "slider"}, "slider": ENDS, "data": {"caption_dropout": 0.1}},
        {"train": {"objective": "slider"}, "slider": ENDS, "data": {"validation_count": 2}},
        {"train": {"objective": "slider"}, "slider": ENDS, "prior": {"prompts": ("a cat",)}},
    ],
)
def test_what_does_not_fit_a_slider_is_refused(sections):
    with raises(BadRecipe):
        Recipe(**sections)


@pytest.mark.parametrize(
    "table",
    [
        {
            "target_class": "a house",
            "positive_prompt": "red",
            "negative_prompt": "",
            "guidance_strength": 2.5,
        },
        {"target": "a house", "positive": "red", "unconditional": "", "guidance_scale": 2.5},
    ],
)
def test_a_slider_is_read_in_other_words(table):
    slider = {"neutral": "a house", "positive": "red", "guidance": 2.5}
    train = {"objective": "slider"}
    assert Recipe(train=train, slider=table) == Recipe(train=train, slider=slider)
    assert Recipe(train=train, slider=table).slider.neutral == ("a house",)
