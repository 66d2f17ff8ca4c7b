"""What the processes that share the tests (``pytest -n``) make once."""

import os
from pathlib import Path

import pytest


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run of the tests, the same in all of its processes."""
    own, run = factory.getbasetemp(), os.environ.get("PYTEST_XDIST_TESTRUNUID")
    folder = own.parent / f"{name}-{run}" if run else own / name
    folder.mkdir(exist_ok=True)
    return folder
