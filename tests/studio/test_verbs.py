"""Verbs in processes of their own."""

import json
from pathlib import Path

import psutil
import pytest

import messages
from limner.errors import BadUsage
from limner.studio import verbs


def test_a_verb_answers_and_imports_nothing_from_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('run')")
    assert verbs.ask(["runs"], folder=tmp_path) == {"runs": {}}


def test_a_verb_that_fails_says_its_line(tmp_path: Path) -> None:
    with messages.raises(verbs.VerbFailed):
        verbs.ask(["status", "nothing"], folder=tmp_path)


def test_a_plan_that_does_not_fit_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"fits": False, "why_not": "It wants 30 GB."}
    monkeypatch.setattr(verbs, "_output", lambda *_: (json.dumps(answer).encode(), b""))
    assert verbs.ask(["plan"], folder=tmp_path) == answer


@pytest.mark.parametrize("stderr", ["", "Traceback ...\nKeyError: 'x\x1b'\n"])
def test_a_verb_that_dies_is_told_by_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    monkeypatch.setattr(verbs, "_output", lambda *_: (b"", stderr.encode()))
    with messages.raises(verbs.VerbFailed):
        verbs.ask(["plan"], folder=tmp_path)


def test_a_verb_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with messages.raises(BadUsage):
        verbs.ask(["doctor"], folder=tmp_path, seconds=0.001)


def test_a_verb_ends_with_the_page_that_waited_for_it(tmp_path: Path) -> None:
    class DrawnAnew(Exception):
        pass

    def tick() -> None:
        raise DrawnAnew

    before = set(psutil.Process().children())
    with pytest.raises(DrawnAnew):
        verbs.ask(["doctor"], folder=tmp_path, tick=tick)
    assert set(psutil.Process().children()) <= before
