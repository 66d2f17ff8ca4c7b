import io
import unicodedata

import pytest

from limner.errors import Stopped
from limner.events import Message, ProgressMade
from limner.reporter import PlainText, Reporter, duration, printable
from messages import raises

CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
"""All of C0, DEL and C1."""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3700, "1 h 1 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_quiet_says_nothing(capsys):
    quiet = Reporter()
    quiet.line("hello")
    with quiet.progress("train", 2) as steps:
        steps.advance(note="loss 1")
    assert capsys.readouterr() == ("", "")


def test_a_listener_hears_every_event_in_order():
    heard = []
    reporter = Reporter(heard.append)
    with reporter.progress("train", 2) as steps:
        steps.advance(note="loss 1")
        reporter.line("half")
        steps.advance()
    assert [type(event) for event in heard] == [
        ProgressMade,
        ProgressMade,
        Message,
        ProgressMade,
        ProgressMade,
    ]
    assert [(e.done, e.note, e.ended) for e in heard if isinstance(e, ProgressMade)] == [
        (0, "", False),
        (1, "loss 1", False),
        (2, "loss 1", False),
        (2, "loss 1", True),
    ]
    seconds = [e.seconds for e in heard if isinstance(e, ProgressMade)]
    assert seconds == sorted(seconds)


def test_nothing_to_count_is_no_event():
    heard = []
    with Reporter(heard.append).progress("train", 0):
        pass
    assert heard == []


def test_work_ends_between_two_pieces_when_the_caller_wants_it():
    heard, asked = [], []
    reporter = Reporter(heard.append, lambda: bool(asked))
    with raises(Stopped), reporter.progress("train", 3) as steps:
        steps.advance()
        asked.append(True)
        steps.advance()
        pytest.fail("it went on")
    assert (heard[-1].done, heard[-1].total, heard[-1].ended) == (2, 3, True)


def test_a_verb_may_ask_by_itself_whether_to_stop():
    Reporter().check()
    Reporter(stop=lambda: False).check()
    with pytest.raises(Stopped):
        Reporter(stop=lambda: True).check()


def test_plain_tells_the_last_state_and_not_every_step():
    stream = io.StringIO()
    with Reporter(PlainText(stream, interval=1000)).progress("train", 50) as steps:
        for step in range(50):
            steps.advance(note=f"loss {step}")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("train 50/50, loss 49, ")


def test_plain_tells_on_the_way_how_long_it_will_take():
    stream = io.StringIO()
    with Reporter(PlainText(stream, interval=0)).progress("cache", 3) as steps:
        steps.advance()
        steps.advance(2)
    first, last = stream.getvalue().splitlines()
    assert first.startswith("cache 1/3, about ")
    assert first.endswith(" left")
    assert last.startswith("cache 3/3, ")


def test_plain_counts_the_time_between_two_lines():
    stream = io.StringIO()
    plain = PlainText(stream, interval=5)
    for seconds in (0, 4, 5, 9, 10, 12):
        plain(ProgressMade(label="train", done=seconds, total=100, seconds=seconds))
    assert [line.partition(",")[0] for line in stream.getvalue().splitlines()] == [
        "train 5/100",
        "train 10/100",
    ]


def test_plain_tells_where_work_was_broken_off():
    stream = io.StringIO()
    with pytest.raises(KeyError), Reporter(PlainText(stream)).progress("train", 9) as steps:
        steps.advance(4)
        raise KeyError
    assert stream.getvalue().startswith("train 4/9, ")


def test_plain_writes_to_stderr_by_default(capsys):
    Reporter(PlainText()).line("reused 3")
    assert capsys.readouterr() == ("", "reused 3\n")


@pytest.mark.parametrize("code", CONTROLS, ids=hex)
def test_no_control_character_reaches_a_terminal(code):
    stream = io.StringIO()
    reporter = Reporter(PlainText(stream, interval=0))
    reporter.line(f"cat{chr(code)}.png")
    with reporter.progress(f"look{chr(code)}", 2) as steps:
        steps.advance(note=f"note{chr(code)}")
    text = stream.getvalue()
    assert text.count("\n") == 3
    assert not [c for c in text.replace("\n", "") if unicodedata.category(c) == "Cc"]
    assert text.startswith("cat\\")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x9b31m", "\\x9b31m"),
        ("gnp.\u202etac", "gnp.\\u202etac"),
        ("caf\udce9.png", "caf\\udce9.png"),
    ],
)
def test_what_would_be_obeyed_is_shown(text, shown):
    assert printable(text) == shown
    assert printable(text).encode("utf-8")


@pytest.mark.parametrize(
    "text", ["Zoë 猫 \U0001f468\u200d\U0001f469 ñ", "a\\x1b", "\N{NO-BREAK SPACE}שלום", ""]
)
def test_what_people_write_stays(text):
    assert printable(text) == text


def test_somebody_else_hears_as_well():
    first, second = [], []
    reporter = Reporter(first.append)
    reporter.also(second.append).line("both")
    reporter.line("one")
    Reporter().also(second.append).line("alone")
    assert [event.text for event in first] == ["both", "one"]
    assert [event.text for event in second] == ["both", "alone"]


def test_work_that_goes_on_counts_from_where_it_was_and_is_timed_by_what_it_does():
    events = []
    with Reporter(events.append).progress("Training", 30, 8) as bar:
        bar.advance()
    assert [(event.done, event.total, event.start) for event in events] == [
        (8, 30, 8),
        (9, 30, 8),
        (9, 30, 8),
    ]
    begun, later = (ProgressMade(label="x", done=done, total=30, start=8, seconds=6.0) for done in (8, 10))
    assert begun.seconds_left is None
    assert later.seconds_left == 60.0, "2 in 6 s, 20 are left"
    with Reporter(events.append).progress("Training", 30, 30):
        assert len(events) == 3, "nothing is left to do, and no bar is shown"
