"""What every commit must pass, in less than 90 seconds on two quiet cores: ``make check``.

Format, lint and layers first, then the types beside the tests. The tests are those of the house (names,
budgets, pages, messages, errors) and those of what changed since ``main``: of a module, the test that
mirrors it; of a test, itself; of what tests share, the tests that import it. ``make test`` runs all. The
seconds of each part are printed, and every part runs, so that one call shows all that is wrong.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("src", "tests", "benchmarks", "tools", "examples", "notebooks")
HOUSE = tuple(
    f"tests/test_{name}.py" for name in ("budgets", "names", "house", "docs", "messages", "errors", "check")
)
MOST_FILES, MOST_SECONDS = 40, 90
"""Test files of what changed that fit into the time beside the house's, at two seconds of one core each."""


def base_commit(root: Path) -> str | None:
    """The commit since which a file counts as changed: where this branch left ``main``.

    On ``main`` itself the commit before; None where there is no history.
    """
    head = _git(root, "rev-parse", "HEAD")
    for name in ("main", "origin/main"):
        if commit := _git(root, "merge-base", "HEAD", name):
            return commit if commit != head else _git(root, "rev-parse", "HEAD~1")
    return None


def changed_files(root: Path) -> list[str]:
    """Files of the project that differ from ``base_commit``, new ones included, removed ones not."""
    commit = base_commit(root)
    if commit is None:
        return []
    tracked_files = _git(root, "diff", "--name-only", "--diff-filter=d", commit) or ""
    new_files = _git(root, "ls-files", "--others", "--exclude-standard") or ""
    return sorted({*tracked_files.splitlines(), *new_files.splitlines()})


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None where it fails or is not there."""
    try:
        process = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def tests_of(names: Iterable[str], root: Path) -> list[str]:
    """The test files that try changed files, without those of the house."""
    tests = [str(path.relative_to(root)) for path in sorted((root / "tests").rglob("test_*.py"))]
    tests_found: set[str] = set()
    for path in (Path(name) for name in names if name.endswith(".py")):
        if path.name.startswith("test_"):
            tests_found.add(str(path))
        elif path.parts[:2] == ("src", "limner"):
            folder, name = Path("tests", *path.parts[2:-1]), f"test_{path.stem.lstrip('_')}.py"
            tests_found |= {str(folder / name), f"tests/models/every_family/{name}"}
        elif path.parts[0] in ("tests", "tools", "benchmarks", "examples"):
            line = re.compile(rf"^\s*(?:import|from)\s(?:.*\W)?{path.stem}\b", re.MULTILINE)
            tests_found |= {test for test in tests if line.search((root / test).read_text(encoding="utf-8"))}
    return sorted((tests_found & set(tests)) - set(HOUSE))


def selection(names: Iterable[str], root: Path) -> tuple[list[str], str]:
    """The test files to run, and how to call them."""
    tests_changed = tests_of(names, root)
    if len(tests_changed) > MOST_FILES:
        text = f"the house's; {len(tests_changed)} files try what changed, too many for here: run `make test`"
        return list(HOUSE), text
    return [*HOUSE, *tests_changed], f"the house's, and {len(tests_changed)} files that try what changed"


def run_part(name: str, command: Sequence[str]) -> bool:
    """Run one part, print its seconds, and what it says where it failed; return whether it passed."""
    start = time.monotonic()
    process = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    seconds = time.monotonic() - start
    verdict = "" if process.returncode == 0 else f" FAILED\n{process.stdout.rstrip()}"
    sys.stdout.write(f"check: {name}: {seconds:.1f} s{verdict}\n")
    sys.stdout.flush()
    return process.returncode == 0


def main() -> int:
    """Run all parts; return 0 where all passed."""
    # Bytecode is kept, where the machine forbids it too: else each of the processes compiles anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    binaries = Path(sys.executable).parent
    os.environ |= {"OMP_NUM_THREADS": "1", "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    start = time.monotonic()
    parts_passed = [
        run_part("format", ["ruff", "format", "--check", "--quiet", *SOURCES]),
        run_part("lint", ["ruff", "check", "--quiet", *SOURCES]),
        run_part("layers", ["lint-imports", "--no-logo"]),
    ]
    files, text = selection(changed_files(ROOT), ROOT)
    tests = [sys.executable, "-m", "pytest", "-n", os.environ.get("JOBS", "2"), "--dist", "worksteal"]
    with ThreadPoolExecutor() as pool:
        types = pool.submit(run_part, "types", ["pyright", "--pythonpath", sys.executable])
        parts_passed += [run_part(f"tests ({text})", [*tests, "-m", "not slow", *files]), types.result()]
    seconds = time.monotonic() - start
    note = "" if seconds < MOST_SECONDS else f"; on two quiet cores it should be less than {MOST_SECONDS}"
    sys.stdout.write(f"check: {'passed' if all(parts_passed) else 'FAILED'} in {seconds:.0f} s{note}\n")
    return 0 if all(parts_passed) else 1


if __name__ == "__main__":
    sys.exit(main())
