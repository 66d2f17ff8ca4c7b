"""How much a reader must open: modules that training reaches, files of a step, ways of the recipe."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limner.nn.loop import fit
from limner.planning.planner import plan
from limner.recipe.fields import Section
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.runs import running
from limner.training.interrupt import Interrupt
from parsed import tree

SOURCE = Path(__file__).resolve().parents[1] / "src"
ROOM = SOURCE / "limner"
OURS = f"{ROOM}/"
FILES, CLIMBS = 12, 15
"""Files of ours that a step of a tiny run enters, the draw of its images and the optimizer included; and how
often on its way through a run the recipe is handed up again."""
REACHED, RUN_REACHED = 90, 140
"""Modules that the trainer reaches, late imports included: what must be read to understand training; and
those that a whole run reaches, with its planner and its pages, which ``limner.runs`` puts together.

The code of what few runs have (textual inversion, predictors, sliders, kinds of adapters beside LoRA, class
images that are not there yet) is named in a table and imported by a run that has it. The trainer is handed
its planner, the pictures that a base makes before it is trained and the LoRA that it starts from. What a
process has loaded that ran ``limner train``, with the command line and the facts of its one family, is
counted in ``tests/cli/test_bad_use.py``.
"""
RESOLVERS = {
    # a checkpoint in one file says its family before it is a base: its tensors are called accordingly
    "family_of": ("limner.assembly.base", "limner.models.convert"),
    # the planner and ``limner instant`` read the configs of a base whose weights are not fetched
    "family_at": (
        *("limner.assembly.base", "limner.assembly.resolve"),
        *("limner.planning.profile_cache", "limner.prediction"),
    ),
    # the base itself, and the other one that samples are generated on: both are values of what was resolved
    # and the base whose difference to another is to become a LoRA, where there is no recipe
    "locate_base": (
        *("limner.lora.location", "limner.assembly.base", "limner.assembly.resolve"),
        "limner.lora.operations",
    ),
    # of the recipe of a run that is over: whether it left a LoRA or a whole base
    "trainable_of": ("limner.assembly.trainable", "limner.assembly.base", "limner.generation.trained"),
}
"""Function that looks something of a base up -> who may call it. Others read it from what was resolved."""


@cache
def modules() -> dict[str, ast.Module]:
    """Every module with code: a package whose file holds its description alone is none."""
    found = {}
    for path in ROOM.rglob("*.py"):
        module = tree(path)
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        if path.name != "__init__.py" or len(module.body) > 1:
            found[name] = module
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of ours that a module imports, late ones included; those for type checkers are not."""
    names: set[str] = set()
    for node in _at_run_time(modules()[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= parts if parts <= modules().keys() else parts | {node.module}
    above = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}  # loaded before it anyway
    return frozenset((names & modules().keys()) - above)


def _at_run_time(module: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(module):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _at_run_time(node)


@cache
def reached(start: str) -> frozenset[str]:
    """A module and all that it imports, and so on."""
    known: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in known:
            known.add(name)
            todo += imports(name)
    return frozenset(known)


def test_training_reaches_few_modules():
    names = reached("limner.training.train")
    assert len(names) <= REACHED, "\n".join(sorted(names))


def test_a_run_reaches_few_modules():
    names = reached("limner.runs")
    assert len(names) <= RUN_REACHED, "\n".join(sorted(names))


def test_modules_import_each_other_in_no_circle():
    circles = sorted({name for name in modules() for other in imports(name) if name in reached(other)})
    assert circles == []


def test_a_base_is_looked_up_where_a_recipe_is_resolved_and_nowhere_else():
    calls = [
        f"{name}:{node.lineno} {node.func.id}"
        for name, module in modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if name not in RESOLVERS.get(node.func.id, (name,))
    ]
    assert calls == []
    own = ("limner.assembly.base", "limner.models.source", "limner.bases.parts")
    sides = [
        f"{name}:{node.lineno}"
        for name, module in modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and name not in own
        if ast.unparse(node).startswith("source.facts.get('resolution'")
    ]
    assert sides == []


class Profile:
    """Files of ours that calls of the loop enter, and those to which a recipe or a table of it is handed."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.way: list[str] = []
        self.looping = False

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if not frame.f_code.co_filename.startswith(OURS) or event not in ("call", "return"):
            return
        if frame.f_code is fit.__code__:  # resumed for a step, or done with one
            self.looping = event == "call"
        if event == "return":
            return
        name = frame.f_code.co_filename.removeprefix(OURS).removesuffix(".py").replace("/", ".")
        name = f"limner.{name}"
        if self.looping:
            self.files.add(name)
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        values = (frame.f_locals.get(key) for key in frame.f_code.co_varnames[:count])
        if self.way[-1:] != [name] and any(isinstance(value, Section) for value in values):
            self.way.append(name)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> list[Profile]:
    """Of a tiny training: all before the first step, each step, and what follows the last."""
    work = tmp_path_factory.mktemp("budgets")
    (work / "images").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(work / "images" / f"{number}.png")
        (work / "images" / f"{number}.txt").write_text(f"thing {number}")
    recipe = Recipe.model_validate(
        {
            "base": "glyph",
            "data": {"images": work / "images", "cache": work / "cache"},
            "lora": {"rank": 2},
            "train": {"steps": 3},
            "sample": {"every": -1},
        }
    )
    # the plan's profile is kept, as before every run but the first, which reads what is shipped
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "home"))
    plan(recipe, Reporter())
    found = []
    with Interrupt() as stop:
        steps = running(recipe, work / "run", Reporter(), stop)
        done = False
        while not done:
            found.append(Profile())
            sys.setprofile(found[-1])
            try:
                next(steps)
            except StopIteration:
                done = True
            finally:
                sys.setprofile(None)
    monkeypatch.undo()
    return found


def test_a_step_enters_few_files(profiles: list[Profile]):
    steps = [sorted(profile.files) for profile in profiles if profile.files]
    assert len(steps) >= 3 and len(steps[1]) <= FILES, "\n".join(steps[1])


def test_the_recipe_seldom_climbs_back(profiles: list[Profile]):
    """To a module that imports the one that had it before, later on or through others."""
    way = [name for name, _ in groupby(name for profile in profiles for name in profile.way)]
    climbs = [f"{one} -> {other}" for one, other in zip(way, way[1:], strict=False) if one in reached(other)]
    assert len(way) > 10 and len(climbs) <= CLIMBS, "\n".join(climbs)
