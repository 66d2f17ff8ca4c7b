import io

import pytest

from limner.run.say import Plain, Quiet, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (3700, "1 h 1 min")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_quiet_says_nothing(capsys):
    quiet = Quiet()
    quiet.line("hello")
    with quiet.steps("train", 2) as steps:
        steps.advance(note="loss 1")
    assert capsys.readouterr() == ("", "")


def test_plain_tells_the_last_state_and_not_every_step():
    stream = io.StringIO()
    with Plain(stream, every=1000).steps("train", 50) as steps:
        for step in range(50):
            steps.advance(note=f"loss {step}")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("train 50/50, loss 49, ")


def test_plain_tells_on_the_way_how_long_it_will_take():
    stream = io.StringIO()
    with Plain(stream, every=0).steps("cache", 3) as steps:
        steps.advance()
        steps.advance(2)
    first, last = stream.getvalue().splitlines()
    assert first.startswith("cache 1/3, about ")
    assert first.endswith(" left")
    assert last.startswith("cache 3/3, ")


def test_plain_tells_where_work_was_broken_off():
    stream = io.StringIO()
    with pytest.raises(KeyError), Plain(stream).steps("train", 9) as steps:
        steps.advance(4)
        raise KeyError
    assert stream.getvalue().startswith("train 4/9, ")


def test_plain_writes_to_stderr_by_default(capsys):
    Plain().line("reused 3")
    assert capsys.readouterr() == ("", "reused 3\n")
