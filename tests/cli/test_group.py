import subprocess
import sys

import pytest
import typer

from limner.cli.app import app
from limner.cli.group import VERBS, Verbs

LOADED = """
import sys
from limner.cli.group import Verbs
verbs = Verbs()
names = list(verbs)
before = {name for name in sys.modules if name.startswith("limner.")}
command = verbs[sys.argv[1]]
print(command.name, len(names), *sorted(name for name in sys.modules if name.startswith("limner.cli")))
"""


def test_each_verb_is_a_command_of_its_name():
    verbs = Verbs()
    assert list(verbs) == list(VERBS) and len(verbs) == len(VERBS)
    assert {name: command.name for name, command in verbs.items()} == {name: name for name in VERBS}
    assert all(command.help for command in verbs.values())


def test_a_strange_verb_is_none():
    assert Verbs().get("paint") is None
    with pytest.raises(KeyError):
        Verbs()["paint"]


def test_a_verb_is_built_once_for_as_long_as_the_command_lives():
    verbs = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert verbs["status"] is verbs["status"]
    assert verbs["runs"].name == "runs"  # of the same module


def test_a_verb_imports_no_other():
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "status"], capture_output=True, text=True, check=True
    )
    name, count, *modules = done.stdout.split()
    assert (name, int(count)) == ("status", len(VERBS))
    assert set(modules) <= {
        *("limner.cli", "limner.cli.app", "limner.cli.group", "limner.cli.options", "limner.cli.status")
    }
