import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from limner.cli.app import app
from limner.cli.caption import CAPTIONS
from limner.cli.options import CONCEPT_TYPES, RECIPE, SAMPLING, numbers, recipe_options, strengths
from limner.errors import BadUsage
from limner.recipe import Recipe
from limner.recipe.aliases import expected, find, keys

LISTED = {
    "check": {"--base", "--components-from", "--trigger", "--concept-type", "--resolution", "--set"},
    "cache": {"--base", "--components-from", "--trigger", "--concept-type", "--resolution", "--set"},
    "plan": {option.flag for option in RECIPE}
    - {"--trigger", "--lr", "--seed", "--save-every", "--sample-every"},
    "train": {option.flag for option in RECIPE},
    "init": {option.flag for option in RECIPE},
}


def test_every_short_name_stands_for_a_key_that_exists():
    assert {option.key for option in RECIPE} - {"set"} <= set(keys(Recipe))


@pytest.mark.parametrize("option", [option for option in RECIPE if option.key != "set"], ids=lambda o: o.flag)
def test_a_short_name_is_a_spelling_of_its_key(option):
    assert find(option.name, Recipe) == option.key


@pytest.mark.parametrize("table", [RECIPE, SAMPLING, CAPTIONS])
def test_names_are_told_apart(table):
    assert len({option.name for option in table}) == len({option.key for option in table}) == len(table)
    assert all(option.help.endswith(".") for option in table)


def test_values_to_complete_are_those_of_the_recipe():
    schema = Recipe.model_json_schema()["properties"]["concept_type"]
    assert expected(schema) == f"one of {', '.join(CONCEPT_TYPES)}"


@pytest.mark.parametrize("verb", sorted(LISTED))
def test_help_lists_what_matters_to_the_verb_and_all_of_it_is_taken(limner, verb):
    shown = {option.flag for option in recipe_options(verb) if not option.hidden}
    assert shown == LISTED[verb]
    words = limner(verb, "--help").out.split()
    assert {flag for flag in (option.flag for option in RECIPE) if flag in words} == shown
    assert "No such option" not in limner(verb, "nowhere", "--lr", "1e-4", "--seed", "3").err


def verbs() -> list[str]:
    command = typer.main.get_command(app)
    inner = command.commands["lora"].commands  # pyright: ignore[reportAttributeAccessIssue]
    outer = command.commands  # pyright: ignore[reportAttributeAccessIssue]
    return [*(name for name in outer if name != "lora"), *(f"lora {name}" for name in inner)]


@pytest.mark.parametrize("verb", verbs())
def test_help_of_each_verb_ends_with_an_example(limner, verb):
    text = " ".join(limner(*verb.split(), "--help").out.split())
    assert f"Example: limner {verb}" in text


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("limner tr", ["train"]),
        ("limner lora inf", ["info"]),
        ("limner train --concept-type s", ["subject", "style"]),
        ("limner train --set lora.r", ["lora.rank=", "lora.ranks=", "lora.rates="]),
        ("limner generate --base flux-", ["flux-dev", "flux-schnell", "flux-kontext"]),
        ("limner plan --weights-pre", ["--weights-precision"]),
    ],
)
def test_the_shell_completes(words, completed):
    environment = os.environ | {
        "_LIMNER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "limner"], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stdout.split() == completed, ran.stderr


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:0.5", r"C:\loras\a.safetensors", 0.5),
        ("run:2:0.5", "run:2", 0.5),
    ],
)
def test_a_lora_and_its_strength(text, path, strength):
    assert strengths([text]) == {Path(path): strength}


def test_a_range_of_strengths_is_every_number_one_apart():
    assert numbers("--strength", "-2..2", float) == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert numbers("--strength", "0,0.5,1..2", float) == [0.0, 0.5, 1.0, 2.0]
    for text in ("2..-2", "1..", "0..1000", "a..b"):
        with pytest.raises(BadUsage, match="a range: 1..4"):
            numbers("--strength", text, float)
