"""What ``pip install limner-*.whl`` brings: the package as it is here, with everything that is not Python."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
BUILD = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built as pip builds it."""
    pytest.importorskip("hatchling", reason="pip install hatchling, which builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(folder / done.stdout.splitlines()[-1])


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src/limner"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = {name.removeprefix("src/") for name in listed.stdout.split("\0") if name}
    assert names, "this is no clone: what belongs to the package is not known"
    return names


def test_all_of_the_package_is_in_the_wheel_and_nothing_else(wheel):
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside - tracked() == set()
    assert tracked() - inside == set()


def test_files_are_what_they_are_here(wheel):
    for name in wheel.namelist():
        if ".dist-info/" not in name:
            assert wheel.read(name) == (SOURCE / name).read_bytes(), name


@pytest.mark.parametrize(
    "pattern",
    [
        "limner/py.typed",
        "limner/bases/glyph/model_index.json",
        "limner/bases/glyph/*/*.safetensors",
        "limner/bases/glyph/demo/*/*.png",
        "limner/bases/glyph-instant/*",
        "limner/bases/glyph-turbo/*",
        "limner/models/configs/**/*.json",
        "limner/captions/prices.json",
        "limner/captions/prompts/*",
    ],
)
def test_what_runs_need_is_there(wheel, pattern):
    wanted = [str(path.relative_to(SOURCE)) for path in SOURCE.glob(pattern) if path.is_file()]
    assert wanted and set(wanted) <= set(wheel.namelist())


def test_the_wheel_says_what_it_is(wheel):
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    text = wheel.read(metadata).decode()
    assert "Requires-Python: >=3.11" in text and "License-Expression: Apache-2.0" in text
    (scripts,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "limner = limner.cli:main" in wheel.read(scripts).decode()
    assert any(name.endswith("licenses/NOTICE") for name in wheel.namelist())
