import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from limner.cli.show import Terminal, failure, plain, progress, result
from limner.run.say import Plain, Quiet


@dataclass
class Inner:
    path: Path
    loss: float


def test_values_become_what_json_knows():
    value = {"a": (Inner(Path("x/y"), math.inf),), 3: math.nan, "n": None, "s": "s", "i": 1}
    assert plain(value) == {"a": [{"path": "x/y", "loss": None}], "3": None, "n": None, "s": "s", "i": 1}


def test_a_result_is_one_object_or_lines(capsys):
    result({"a": "é\n"}, ["one", "two"], as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": "é\n"}
    result({"a": 1}, ["one", "two"], as_json=False)
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_failure_is_one_line_even_if_its_message_is_not(capsys):
    failure("BadData", "one\ntwo", as_json=False)
    assert capsys.readouterr() == ("", "limner: error: one two\n")


def test_bars_only_on_a_terminal_and_only_from_the_first_process(monkeypatch):
    assert isinstance(progress(), Plain)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(progress(), Terminal)
    monkeypatch.setenv("RANK", "1")
    assert isinstance(progress(), Quiet)


@pytest.fixture
def screen():
    stream = io.StringIO()
    return Terminal(Console(file=stream, force_terminal=True, width=100)), stream


def test_bars_may_be_nested_and_text_is_never_markup(screen):
    terminal, stream = screen
    with terminal.steps("train [bold]", 2) as outer:
        outer.advance(note="loss [red]1")
        with terminal.steps("sample", 1) as inner:
            inner.advance()
        terminal.line("a [trigger] line")
        outer.advance()
    with terminal.steps("again", 1) as steps:
        steps.advance()
    text = stream.getvalue()
    for part in ("train [bold]", "loss [red]1", "sample", "a [trigger] line", "2/2", "again"):
        assert part in text


def test_bars_end_with_the_work_that_failed(screen):
    terminal, _ = screen
    for _ in range(2):
        with pytest.raises(KeyError), terminal.steps("train", 2), terminal.steps("sample", 2):
            raise KeyError
