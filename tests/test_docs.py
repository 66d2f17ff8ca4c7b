"""What the pages say is there is there: links, files, recipe keys, and the page made from the recipe."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import python_page
import recipe_page
from limner.cli.app import app
from limner.recipe import aliases
from limner.recipe.schema import Recipe
from limner.recipe.toml import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TABLES = [name for name in Recipe.model_fields if f"{name}." in " ".join(aliases.keys(Recipe))]
KEY = re.compile(rf"(?<![\w/.])(?:{'|'.join(TABLES)})\.[a-z_]+(?![\w/(.]|\.py)")
IN_HOUSE = re.compile(r"`((?:src|tests|docs|benchmarks|tools)/[\w./-]+)`")
FILE = (".json", ".jsonl", ".toml", ".py", ".safetensors", ".log")


def code(text: str) -> str:
    """What stands in back-quotes or code blocks."""
    return "\n".join(
        found for pair in re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL) for found in pair
    )


def wanted(name: str) -> bool:
    """Whether a test mirrors a module that is there; `test_house` asks for such a test by itself."""
    mirrored = re.fullmatch(r"tests/(\w+/)test_(\w+\.py)", name)
    return bool(mirrored) and (ROOT / "src" / "limner" / mirrored[1] / mirrored[2]).exists()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in IN_HOUSE.findall(text) if not (ROOT / name).exists() and not wanted(name)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_recipe_keys_exist(page):
    named = KEY.findall(code(page.read_text(encoding="utf-8")))
    assert not {key for key in named if not key.endswith(FILE)} - set(aliases.keys(Recipe))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_examples_of_recipes_are_recipes(page):
    for example in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert parse(example, ROOT)


def test_the_clone_has_one_address():
    """Whoever publishes a clone replaces one word."""
    files = [ROOT / "pyproject.toml", ROOT / "README.md", *(ROOT / "docs" / "guide").glob("*.md")]
    files += [path for path in (ROOT / "notebooks").iterdir() if path.is_file()]
    found = [
        name for path in files for name in re.findall(r"github(?:\.com)?/([\w-]+)/limner", path.read_text())
    ]
    assert len(found) > 8 and set(found) == {"OWNER"}


def test_the_page_of_the_recipe_is_up_to_date():
    assert recipe_page.PAGE.read_text(encoding="utf-8") == recipe_page.page(), "run `make format`"


def test_the_page_of_the_front_door_is_up_to_date():
    assert python_page.PAGE.read_text(encoding="utf-8") == python_page.page(), "run `make format`"


def commands() -> dict[str, set[str]]:
    """Verb -> its options, as the command line has them."""
    verbs = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    return {name: _flags(verb) for name, verb in verbs.items()}


def _flags(verb: Any) -> set[str]:
    """The options of a verb, or of all the verbs in a group."""
    own = {flag for p in verb.params for flag in p.opts}
    return own.union(*map(_flags, getattr(verb, "commands", {}).values()))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_the_pages_exist(page):
    known = commands()
    for line in code(page.read_text(encoding="utf-8")).splitlines():
        found = re.search(r"(?:^|\s)(?:-m )?limner ([a-z]+)(?P<rest>[^#]*)", line)
        if found:
            verbs = [found[1], *re.findall(r"\s-- ([a-z]+)", found["rest"])]  # of a job, behind "--"
            assert set(verbs) <= known.keys(), line
            options = set().union(*(known[verb] for verb in verbs))
            assert set(re.findall(r"(?<=\s)--[a-z-]+", found["rest"])) <= options, line


def test_make_targets_in_the_pages_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"\bmake ([a-z]+)\b", code(page.read_text(encoding="utf-8")))
        assert set(named) <= targets, page


def test_versions_are_pinned_for_everything_that_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["dev"], *extras["optim"], *extras["base"], *extras["gpu"]]
    names = {re.split(r"[\[>=<]", name)[0].lower().replace("_", "-") for name in asked} - {"limner"}
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert names <= pinned
