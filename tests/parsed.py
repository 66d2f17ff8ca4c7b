"""Python files as syntax trees, each parsed once: the tests of the house read all of them."""

import ast
from functools import cache
from pathlib import Path

from limner.imports import swiftly


@cache
def tree(path: Path) -> ast.Module:
    """The tree of a file, which stays: parsed without looking for garbage, in a third of the time."""
    with swiftly():
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
