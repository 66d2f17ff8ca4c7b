import errno
import io
import json
import unicodedata

import pytest
from rich.console import Console

from limner.cli.show import ERROR_FILE, JsonLines, Terminal, failure, result, shown, while_open
from limner.events import Message, ProgressMade, Saved
from limner.reporter import PlainText, Reporter


def test_a_result_is_one_object_or_lines(capsys):
    result({"a": "é\n"}, ["one", "two"], as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": "é\n"}
    result({"a": 1}, ["one", "two"], as_json=False)
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_failure_is_one_line_even_if_its_message_is_not(capsys):
    failure("BadData", "one\ntwo", as_json=False)
    assert capsys.readouterr() == ("", "limner: error: one two\n")


CONTROLS = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))


def controls(text):
    return [c for c in text.replace("\n", "") if unicodedata.category(c) == "Cc"]


def test_of_several_processes_the_first_speaks_and_the_launcher_is_told_of_the_others(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RANK", "1")
    failure("Stopped", "Stopped at step 9.", as_json=False)
    assert "Stopped at step 9." in capsys.readouterr().err, "no launcher would say it"
    spoken = "limner: error: Stopped at step 9.\n"
    for place, lines in ((("1", "1"), ""), (("0", "0"), spoken), (("1", "0"), spoken), (("2", "1"), "")):
        path = tmp_path / f"{place}.json"
        for name, number in zip(("RANK", "LOCAL_RANK"), place, strict=True):
            monkeypatch.setenv(name, number)  # the first of another machine speaks there
        monkeypatch.setenv(ERROR_FILE, str(path))
        failure("Stopped", "Stopped at step 9.", as_json=False)
        assert capsys.readouterr().err == lines
        assert json.loads(path.read_text())["message"]["message"] == "Stopped at step 9."


def test_neither_results_nor_failures_let_a_terminal_obey_what_they_name(capsys):
    result({}, [f"name {CONTROLS}"], as_json=False)
    failure("BadData", f"name {CONTROLS}", as_json=False)
    out, err = capsys.readouterr()
    assert not controls(out + err)
    assert "\\x1b" in out
    assert out.count("\n") == err.count("\n") == 1


def test_bars_only_on_a_terminal_and_only_from_the_first_process(monkeypatch):
    assert isinstance(shown(), PlainText)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(shown(), Terminal)
    monkeypatch.setenv("RANK", "1")
    assert shown() is None


@pytest.fixture
def screen():
    stream = io.StringIO()
    return Reporter(Terminal(Console(file=stream, force_terminal=True, width=100))), stream


def test_bars_may_be_nested_and_text_is_never_markup(screen):
    reporter, stream = screen
    with reporter.progress("train [bold]", 2) as outer:
        outer.advance(note="loss [red]1")
        with reporter.progress("sample", 1) as inner:
            inner.advance()
        reporter.line("a [trigger] line")
        outer.advance()
    with reporter.progress("again", 1) as steps:
        steps.advance()
    text = stream.getvalue()
    for part in ("train [bold]", "loss [red]1", "sample", "a [trigger] line", "2/2", "again"):
        assert part in text


def test_a_terminal_obeys_nothing_that_it_is_shown():
    stream = io.StringIO()
    reporter = Reporter(Terminal(Console(file=stream, width=200)))
    reporter.line(f"a{CONTROLS}")
    with reporter.progress(f"b{CONTROLS}", 1) as bar:
        bar.advance(note=f"c{CONTROLS}")
    assert not controls(stream.getvalue())
    assert "\\x1b" in stream.getvalue()


def test_bars_end_with_the_work_that_failed(screen):
    reporter, _ = screen
    for _ in range(2):
        with pytest.raises(KeyError), reporter.progress("train", 2), reporter.progress("sample", 2):
            raise KeyError


def test_programs_read_a_line_of_json_for_each_event():
    stream = io.StringIO()
    write = JsonLines(stream)
    write(Message("a\nb\x1b"))
    write(Saved(step=2, path="x", lora=None))
    lines = stream.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"event": "message", "text": "a\nb\x1b"},
        {"event": "saved", "step": 2, "path": "x", "lora": None},
    ]
    assert not controls(stream.getvalue())


def test_of_counted_work_programs_read_the_beginning_a_few_and_the_end():
    stream = io.StringIO()
    write = JsonLines(stream)
    for number in range(65):
        write(ProgressMade(label="Caching", done=number, total=64, seconds=number / 64))
    write(ProgressMade(label="Caching", done=64, total=64, seconds=1.0, ended=True))
    write(ProgressMade(label="Caching", done=0, total=1))
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [row["done"] for row in rows] == [0, 16, 32, 48, 64, 64, 0]
    assert [row["ended"] for row in rows] == [False] * 5 + [True, False]


def test_the_bar_of_a_run_that_goes_on_begins_where_it_was():
    stream = io.StringIO()
    terminal = Terminal(Console(file=stream, force_terminal=True, width=100))
    terminal(ProgressMade(label="Training", done=8, total=30, start=8))
    terminal(ProgressMade(label="Training", done=8, total=30, start=8, ended=True))
    assert "8/30" in stream.getvalue()
    assert "0/30" not in stream.getvalue()


def test_a_listener_whose_terminal_is_gone_is_silent_and_harmless():
    heard = []

    def listen(event):
        heard.append(event)
        if len(heard) == 2:
            raise OSError(errno.EIO, "Input/output error")

    hear = while_open(listen)
    for text in "abc":
        hear(Message(text))
    assert heard == [Message("a"), Message("b")]
