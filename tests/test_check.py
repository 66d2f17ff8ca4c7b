import subprocess
import sys

import pytest

import check


@pytest.fixture
def project(tmp_path):
    """A history of one commit on ``main``, and a branch beside it."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "old.py").write_text("a")
    (tmp_path / "removed.py").write_text("a")
    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "first")
    git("switch", "-c", "branch")
    return tmp_path, git


def test_what_changed_since_main(project):
    root, git = project
    assert check.changed_files(root) == []  # the first commit has none before it
    (root / "committed.py").write_text("a")
    (root / "removed.py").unlink()
    git("add", "--all")
    git("commit", "-m", "second")
    (root / "old.py").write_text("b")
    (root / "new.py").write_text("a")
    assert check.changed_files(root) == ["committed.py", "new.py", "old.py"]


def test_on_main_the_last_commit_counts(project):
    root, git = project
    git("switch", "main")
    (root / "old.py").write_text("b")
    git("commit", "--all", "-m", "second")
    assert check.changed_files(root) == ["old.py"]


def test_without_a_history_nothing_counts_as_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert check.changed_files(tmp_path) == []


def test_the_tests_of_what_changed():
    names = [
        "README.md",
        "src/limner/errors.py",  # of the house's own
        "src/limner/lora/svd.py",
        "src/limner/models/flux/facts.py",
        "src/limner/models/flux/__init__.py",
        "tests/nn/test_loop.py",
        "tests/tiny_edit.py",
        "tools/memory_page.py",
    ]
    tests = check.tests_of(names, check.ROOT)
    expected = {
        "tests/lora/test_svd.py",
        "tests/models/every_family/test_facts.py",
        "tests/nn/test_loop.py",
        "tests/test_memory_page.py",
    }
    assert expected <= set(tests) and "tests/test_errors.py" not in tests
    others = set(tests) - expected
    texts = [(check.ROOT / name).read_text(encoding="utf-8") for name in others]
    assert texts and all("tiny_edit" in text for text in texts)


def test_the_house_has_its_tests_and_too_many_are_left_to_make_test():
    assert all((check.ROOT / name).is_file() for name in check.HOUSE)
    every = [
        str(path.relative_to(check.ROOT)) for path in (check.ROOT / "src" / "limner" / "nn").rglob("*.py")
    ]
    few, text = check.selection(every[:3], check.ROOT)
    assert set(check.HOUSE) < set(few) or text.endswith("and 0 files that try what changed")
    every += [str(path.relative_to(check.ROOT)) for path in (check.ROOT / "tests").rglob("test_*.py")]
    files, text = check.selection(every, check.ROOT)
    assert files == list(check.HOUSE) and "run `make test`" in text


def test_a_part_says_its_seconds_and_what_failed(capsys):
    assert check.run_part("good", [sys.executable, "-c", "print('quiet')"])
    assert not check.run_part("bad", [sys.executable, "-c", "print('reason'); raise SystemExit(3)"])
    good, bad, reason = capsys.readouterr().out.splitlines()
    assert good.startswith("check: good: ") and good.endswith(" s")
    assert bad.startswith("check: bad: ") and bad.endswith(" s FAILED") and reason == "reason"
