import pytest

from limner.errors import BadRecipe
from limner.recipe import Data, Recipe, Sample
from limner.recipe.prompts import prompts, with_trigger
from messages import raises


def test_prompts_come_first_then_those_of_the_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a {trigger} car\n\n  a moon  \n")
    sample = Sample(prompts=("[trigger] asleep",), prompt_file=path)
    recipe = Recipe(data=Data(trigger="sks cat"), sample=sample)
    assert prompts(recipe) == ("sks cat asleep", "a sks cat car", "a moon")


def test_the_mark_that_windows_puts_before_a_text_is_no_part_of_a_prompt(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("a cat\r\na moon\r\n".encode("utf-8-sig"))
    assert prompts(Recipe(sample=Sample(prompt_file=path))) == ("a cat", "a moon")


def test_no_trigger_leaves_no_hole():
    assert with_trigger("a cat, [trigger]", "") == "a cat"
    assert with_trigger("a [trigger] cat", "") == "a cat"


def test_a_trigger_is_no_pattern():
    assert with_trigger("[trigger]", r"\1 \g<0>") == r"\1 \g<0>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no such file\. Write one prompt per line"),
        (b"\xff", "is not UTF-8"),
        (b" \n\n", "holds no prompt"),
    ],
)
def test_a_bad_prompt_file_is_named(tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRecipe, match=message):
        prompts(Recipe(sample=Sample(prompt_file=path)))


def test_a_folder_is_no_prompt_file(tmp_path):
    with raises(BadRecipe):
        prompts(Recipe(sample=Sample(prompt_file=tmp_path)))
