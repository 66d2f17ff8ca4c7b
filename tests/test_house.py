"""The house rules that no linter holds: sizes, mirrors, layers, and what may never be written."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parsed import tree

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "limner"
FUNCTION_LINES = 60
FILE_LINES = 400
OUR_PYTHON = sorted(
    p for top in ("src", "tests", "benchmarks", "tools", "examples") for p in (ROOT / top).rglob("*.py")
)
MODULES = sorted(p for p in SOURCE.rglob("*.py") if p.name not in ("__init__.py", "__main__.py"))
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".jsonl", ".html", ".cfg", ".yml", ".yaml", ""}
SOMEBODY = re.compile(r"""(?<![\w.}~*)-])/(?:home|Users|root|work|mnt)/[\w.-]""")
HERE = re.compile("|".join(rf"(?<![\w.]){re.escape(str(path))}/" for path in (ROOT, Path.home())))


def called(node: ast.Call) -> str:
    """Return the dotted name that a call spells, such as "torch.load"; "" when it is not a plain name."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def calls(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node.lineno, called(node)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


def tracked() -> list[Path]:
    """Every text file of the project: what git tracks, or all source files where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [ROOT / name for name in listed.stdout.split("\0") if name] or OUR_PYTHON
    return [p for p in names if p.is_file() and p.suffix in TEXT]


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_functions_fit_on_a_screen():
    long = [
        f"{where(path, node.lineno)} {node.name} has {lines} lines"
        for path in OUR_PYTHON
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_files_are_read_in_one_sitting():
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in OUR_PYTHON}
    long = [f"{where(path, 1)} has {lines} lines" for path, lines in counts.items() if lines > FILE_LINES]
    assert not long, "\n".join(long)


def mirror(module: Path) -> Path:
    """The test of a module. What every family's folder has is tested for all families at once."""
    test = ROOT / "tests" / module.relative_to(SOURCE).parent / f"test_{module.stem.lstrip('_')}.py"
    every = ROOT / "tests" / "models" / "every_family" / test.name
    return every if (module.parent / "facts.py").is_file() and every.is_file() else test


def test_every_module_has_its_mirror():
    mirrors = {module: mirror(module) for module in MODULES}
    missing = [f"{where(m, 1)} wants {t.relative_to(ROOT)}" for m, t in mirrors.items() if not t.is_file()]
    assert MODULES
    assert not missing, "\n".join(missing)


def test_every_test_asserts_something():
    hollow = [
        f"{where(path, node.lineno)} {node.name}"
        for path in OUR_PYTHON
        if path.name.startswith("test_")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not any(isinstance(n, ast.Assert) for n in ast.walk(node))
        and not re.search(r"raises|assert_|deprecated_call|warns", ast.unparse(node))
    ]
    assert not hollow, "\n".join(hollow)


def test_the_package_never_prints():
    loud = [
        where(path, line) for path in SOURCE.rglob("*.py") for line, name in calls(path) if name == "print"
    ]
    assert not loud, "\n".join(loud)


def test_nothing_is_ever_unpickled():
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    loaders = {"torch.load", "pandas.read_pickle", "pd.read_pickle"}
    found = [
        f"{where(path, line)} {name}"
        for path in SOURCE.rglob("*.py")
        for line, name in [*imported(path), *calls(path)]
        if name.split(".")[0] in modules or name in loaders
    ]
    found += [
        f"{where(path, node.value.lineno)} allow_pickle={ast.unparse(node.value)}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    assert not found, "\n".join(found)


def test_errors_are_never_swallowed_whole():
    broad = [
        f"{where(path, node.lineno)} {ast.unparse(node.type) if node.type else 'bare except'}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    assert not broad, "\n".join(broad)


def test_no_path_of_one_machine():
    found = [
        f"{where(path, number)} {line.strip()[:90]}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if HERE.search(line) or ("tests" not in path.parts and SOMEBODY.search(line))  # tests make paths up
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "helper", "common", "misc", "manager"])
def test_a_room_is_named_by_a_noun(name):
    assert not list(SOURCE.rglob(f"{name}.py"))


def test_each_layer_imports_only_below():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_and_help_load_no_torch():
    code = (
        "import sys, limner.cli; limner.cli.main; sys.exit(bool({'torch', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
