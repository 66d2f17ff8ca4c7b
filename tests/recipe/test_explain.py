import pytest

from limner.errors import BadRecipe
from limner.recipe import Recipe
from limner.recipe.aliases import expected, keys, shown, tables


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lora": {"rank": 0}}, "lora.rank is 0; it must be a whole number, from 1 to 4096. Try 16."),
        ({"lora": {"rank": "16"}}, 'lora.rank is "16"; it must be a whole number, from 1 to 4096. Try 16.'),
        ({"lora": {"rank": 16.5}}, "lora.rank is 16.5; it must be a whole number, from 1 to 4096. Try 16."),
        ({"lora": {"rank": True}}, "lora.rank is true; it must be a whole number, from 1 to 4096. Try 16."),
        ({"lora": 3}, "lora is 3; it must be a table."),
        ({"data": {"flip": 1}}, "data.flip is 1; it must be true or false. Try false."),
        ({"data": {"images": 3}}, 'data.images is 3; it must be a path. Try "images".'),
        (
            {"data": {"resolution": 1}},
            "data.resolution is 1; it must be a whole number, from 16 to 8192 or a list, not empty, each "
            "item a whole number, from 16 to 8192. Try 1024, or leave it out.",
        ),
        (
            {"train": {"learning_rate": float("nan")}},
            "train.learning_rate is NaN; it must be a number, above 0, at most 10. Try 0.0001.",
        ),
        (
            {"train": {"optimizer": "adamm"}},
            'train.optimizer is "adamm"; it must be one of adamw, adamw8bit, pagedadamw8bit, adafactor, '
            'prodigy, schedulefree or a class by its dotted path ("package.Class"). Did you mean "adamw"?',
        ),
        (
            {"track": {"with": ["wandbb"]}},
            'track.with is ["wandbb"]; it must be a list, each item one of tensorboard, wandb, trackio. '
            'Did you mean ["wandb"]?',
        ),
        (
            {"train": {"time_shift": "foo"}},
            'train.time_shift is "foo"; it must be one of auto, none or a number, above 0. Try "auto".',
        ),
        (
            {"train": {"betas": [0.9]}},
            "train.betas is [0.9]; it must be a list of 2, each a number, at least 0, below 1. "
            "Try [0.9, 0.999].",
        ),
        (
            {"sample": {"prompts": "a cat"}},
            'sample.prompts is "a cat"; it must be a list, each item a string, not empty. Try ["a cat"].',
        ),
        (
            {"track": {"with": "wandb"}},
            'track.with is "wandb"; it must be a list, each item one of tensorboard, wandb, trackio. '
            'Did you mean ["wandb"]?',
        ),
        (
            {"train": {"betas": "0.9"}},
            'train.betas is "0.9"; it must be a list of 2, each a number, at least 0, below 1. '
            "Try [0.9, 0.999].",
        ),
        (
            {"train": {"steps": {"a": 1}}},
            "train.steps is a table; it must be a whole number, at least 0. Try 1000.",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_the_value_and_the_remedy(table, message):
    with pytest.raises(BadRecipe) as caught:
        Recipe.model_validate(table)
    assert str(caught.value) == message


@pytest.mark.parametrize("path", sorted(keys(Recipe)))
@pytest.mark.parametrize("value", [None, {}, {"a": {"b": 1}}, [[1]], [], -7, 1e308, "\x00" * 99, True])
def test_no_value_at_any_key_escapes_as_another_error(path, value):
    table, _, key = path.rpartition(".")
    try:
        Recipe.model_validate({table: {key: value}} if table else {key: value})
    except BadRecipe as error:
        assert "\n" not in str(error)
        assert path in str(error)


def test_long_values_are_cut():
    assert len(shown("x" * 1000)) == 60


def test_rules_in_words():
    assert expected({"type": "integer", "minimum": 1}) == "a whole number, at least 1"
    assert expected({"anyOf": [{"type": "string"}, {"type": "null"}]}) == "a string"


def test_tables_are_told_from_keys():
    assert tables(Recipe)[:3] == ("data", "lora", "train")
    assert not set(tables(Recipe)) & set(keys(Recipe))
