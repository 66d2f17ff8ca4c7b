import pytest

from limner.errors import BadRecipe
from limner.recipe import Data, Recipe, Sample
from limner.recipe.prompt_file import PromptLine, prompt_lines
from limner.recipe.toml import dump, parse, prompts, sample_lines
from messages import raises


def lines_of(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    return prompt_lines(path, "--prompt-file", "--prompt")


def test_a_prompt_a_line_without_comments_and_blanks(tmp_path):
    text = "# mine\n\n a cat \n  # theirs\na car #3\n"
    assert lines_of(tmp_path, text) == [PromptLine("a cat"), PromptLine("a car #3")]


def test_the_flags_of_sd_scripts_are_read(tmp_path):
    text = "a cat, sitting --n blurry, two heads --w 512 --h 768 --d 3 --s 28 --l 4.5\na cat --g 3.5\n"
    assert lines_of(tmp_path, text) == [
        PromptLine("a cat, sitting", "blurry, two heads", 512, 768, 3, 28, 4.5),
        PromptLine("a cat", guidance=3.5),
    ]


def test_what_is_no_flag_is_of_the_prompt(tmp_path):
    text = "a well--known cat -- on a mat\na cat --w  64\n"
    assert lines_of(tmp_path, text) == [
        PromptLine("a well--known cat -- on a mat"),
        PromptLine("a cat", width=64),
    ]


@pytest.mark.parametrize("line", ["a cat --ss euler_a", "a cat --w wide", "a cat --d"])
def test_a_flag_that_means_nothing_is_named_with_its_line(tmp_path, line):
    with raises(BadRecipe):
        lines_of(tmp_path, f"a dog\n{line}\n")


def test_a_missing_and_an_empty_file_name_the_option(tmp_path):
    with raises(BadRecipe):
        prompt_lines(tmp_path / "none.txt", "--prompt-file", "--prompt")
    with raises(BadRecipe):
        lines_of(tmp_path, "# nothing\n")


@pytest.mark.parametrize("in_file", [True, False])
def test_flags_of_prompts_are_read_and_are_no_words(tmp_path, in_file):
    texts = ("[trigger] in snow --w 64 --h 96 --d 7 --am 0.5", "a moon")
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(texts))
    sample = Sample(prompt_file=path) if in_file else Sample(prompts=texts)
    recipe = Recipe(sample=sample, data=Data(trigger="zxq"))
    (text, line), plain = sample_lines(recipe)
    assert text == "zxq in snow" and plain == ("a moon", None)
    assert line and (line.width, line.height, line.seed, line.strength) == (64, 96, 7, 0.5)
    assert prompts(recipe) == ("zxq in snow", "a moon")


def test_a_prompt_may_be_a_table():
    recipe = parse(
        '[sample]\nprompts = ["a moon", {prompt = "a cat", width = 64, negative_prompt = "blurry fur"}]\n'
    )
    assert recipe.sample.prompts == ("a moon", "a cat --w 64 --n blurry fur")
    assert parse(dump(recipe)) == recipe
    (_, (text, line)) = sample_lines(recipe)
    assert text == "a cat" and line and (line.width, line.negative_prompt) == (64, "blurry fur")


@pytest.mark.parametrize("entry", ["{width = 64}", '{prompt = "a", wdth = 3}', '{prompt = ""}'])
def test_a_table_that_is_no_prompt_is_refused(entry):
    with raises(BadRecipe):
        parse(f"[sample]\nprompts = [{entry}]\n")
