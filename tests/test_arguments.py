import ast
import inspect
from dataclasses import fields

import pytest

from limner import arguments
from limner.arguments import CaptionKeys, InstantKeys, RecipeKeys, SamplingKeys
from limner.cli.caption import CAPTIONS
from limner.cli.instant import INSTANT
from limner.cli.options import RECIPE, SAMPLING
from limner.generation.settings import Settings
from limner.prediction import InstantOptions


def test_keys_of_a_recipe_are_the_short_names_of_the_command_line():
    assert set(RecipeKeys.__annotations__) == {option.name for option in RECIPE} - {"set"}


def test_what_an_image_is_made_of_is_what_the_command_line_asks():
    ours = set(SamplingKeys.__annotations__)
    of_the_request = {
        "components_from",
        "embeddings",
        "images",
        "loras",
        "prompt_file",
        "sample_base",
        "step",
    }
    assert ours - of_the_request == {field.name for field in fields(Settings)} - {"lora_scale", "controls"}
    assert ours == {option.key for option in SAMPLING} - {"prompts", "base", "lora_scale"}


def test_captions_take_what_the_command_line_takes():
    ours = set(CaptionKeys.__annotations__) - {"style", "consistency"}
    assert ours == {option.key for option in CAPTIONS} - {
        *("name", "style", "alone", "review", "apply", "show_prompt"),
    }


def test_a_lora_of_one_pass_takes_what_the_command_line_takes():
    ours = set(InstantKeys.__annotations__)
    assert ours == {field.name for field in fields(InstantOptions)}
    assert ours == {option.key for option in INSTANT} - {"base"}


@pytest.mark.parametrize("kind", [RecipeKeys, CaptionKeys, SamplingKeys, InstantKeys])
def test_every_key_says_what_it_means(kind):
    (tree,) = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(arguments)))
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    ]
    keys = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert len(keys) == len(kind.__annotations__)
    for key in keys:
        after = tree.body[tree.body.index(key) + 1]
        assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(key)
