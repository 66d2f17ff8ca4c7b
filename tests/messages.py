"""Whole error messages, compared with one golden file: a change of wording is one review of one file.

``with raises(BadRecipe): ...`` is ``pytest.raises`` that also compares the message with this test's line in
``tests/golden/messages.json``. ``pytest --rewrite-messages tests/room/test_x.py`` writes the lines of the
tests that it runs. A test that raises several times has several lines: ``...::test_x``, ``...::test_x #2``.
"""

import ast
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import filelock
import pytest

from limner.models.registry import families, registered_bases

E = TypeVar("E", bound=BaseException)
ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).with_name("golden") / "messages.json"


class Messages:
    """The messages of one session of pytest.

    Args:
        golden: The golden file: one JSON object, test -> message.
        temporary: The folder that holds every temporary folder of the session.
        rewrite: Record the messages instead of comparing them.
    """

    def __init__(self, golden: Path, temporary: Path, *, rewrite: bool) -> None:
        self.golden, self.temporary, self.rewrite = golden, temporary, rewrite
        self.expected: dict[str, str] = json.loads(golden.read_text(encoding="utf-8"))
        self.recorded: dict[str, str] = {}
        self.tests: set[str] = set()
        self.test, self.count = "", 0

    def start(self, test: str) -> None:
        """Take note of the test that runs from now on."""
        self.test, self.count = test, 0
        self.tests.add(test)

    def compare(self, error: BaseException) -> None:
        """Compare a message with its line in the golden file, or record it.

        Raises:
            AssertionError: The message is another one, or has no line.
        """
        self.count += 1
        key = self.test if self.count == 1 else f"{self.test} #{self.count}"
        message = self.normal(str(error))
        if self.rewrite:
            self.recorded[key] = message
            return
        remedy = f"pytest --rewrite-messages '{self.test}'"
        assert key in self.expected, f"No golden message for {key}. Run {remedy}; it says: {message}"
        assert message == self.expected[key], f"{key} says something else. If that is better, run {remedy}"

    def normal(self, message: str) -> str:
        """Return a message with the folders of this session and of this checkout replaced."""
        message = LIST.sub(short, message)
        message = re.sub(rf"{re.escape(str(self.temporary))}/[\w-]+", "<tmp>", message)
        return message.replace(str(ROOT), "<root>").replace(sys.executable, "<python>")

    def save(self) -> None:
        """Write what was recorded; drop the lines of tests that say nothing any more or are gone."""
        with filelock.FileLock(Path(tempfile.gettempdir()) / "limner-messages.lock"):
            messages = json.loads(self.golden.read_text(encoding="utf-8"))
            old = {key for key in messages if test_of(key) in self.tests or not exists(key)}
            messages = {key: text for key, text in messages.items() if key not in old} | self.recorded
            text = json.dumps(dict(sorted(messages.items())), indent=0, ensure_ascii=False)
            self.golden.write_text(text + "\n", encoding="utf-8")


WORD = r"[\w-]+(?:\.\d[\w-]*)*"
LIST = re.compile(rf"{WORD}(, {WORD}){{3,}}")


def short(listed: re.Match[str]) -> str:
    """Return a list with one word for all names of bases, families and pipelines."""
    known = {*registered_bases(), *families(), *(facts.pipeline for facts in families().values())}
    names = listed[0].split(", ")
    others = [name for name in names if name not in known]
    return listed[0] if len(names) < len(others) + 4 else ", ".join(["<all known>", *others])


def test_of(key: str) -> str:
    """Return the test that a line of the golden file belongs to."""
    return re.sub(r" #\d+$", "", key)


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def exists(key: str) -> bool:
    """Whether the test of a line is still there."""
    name, _, function = test_of(key).partition("[")[0].partition("::")
    path = ROOT / name
    return path.is_file() and function in functions(path)


SESSION: list[Messages] = []
"""The messages of the session that runs; `conftest` puts them here."""


@contextmanager
def raises(kind: type[E]) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect an error of this kind whose whole message is the golden one of this test."""
    with pytest.raises(kind) as caught:
        yield caught
    SESSION[-1].compare(caught.value)
