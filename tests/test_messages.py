"""The golden file of error messages: what is compared, what is recorded, and that every line has its test."""

import json

import pytest

import messages

HERE = "tests/test_messages.py::test_every_line_has_its_test"
GONE = "tests/test_messages.py::test_that_was_removed"


@pytest.fixture
def session(tmp_path):
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({HERE: "Set a.", f"{HERE} #2": "<tmp>/x is empty.", GONE: "Set c."}))
    return lambda rewrite: messages.Messages(golden, tmp_path, rewrite=rewrite)


def test_every_line_has_its_test():
    lines = json.loads(messages.GOLDEN.read_text(encoding="utf-8"))
    assert not [key for key in lines if not messages.exists(key)], "run pytest --rewrite-messages"


def test_a_message_is_compared_whole_and_in_order(session, tmp_path):
    told = session(rewrite=False)
    told.start(HERE)
    told.compare(ValueError("Set a."))
    told.compare(ValueError(f"{tmp_path}/photos0/x is empty."))
    with pytest.raises(AssertionError, match="No golden message for .* #3.*--rewrite-messages"):
        told.compare(ValueError("Set a."))
    told.start(HERE)
    with pytest.raises(AssertionError, match="says something else"):
        told.compare(ValueError("Set a. Or b."))


def test_rewriting_keeps_the_lines_of_tests_that_did_not_run(session, tmp_path):
    lines = {HERE: "Set a.", f"{HERE} #2": "<tmp>/x is empty."}
    told = session(rewrite=True)
    told.save()
    assert json.loads(told.golden.read_text()) == lines  # the test that is gone has lost its line
    told.start(HERE)
    told.compare(ValueError(f"{messages.ROOT} is new in {tmp_path}/a_1/b"))
    told.save()
    assert json.loads(told.golden.read_text()) == {HERE: "<root> is new in <tmp>/b"}


def test_what_raises_nothing_or_another_kind_fails():
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), messages.raises(ValueError):
        pass
    with pytest.raises(KeyError), messages.raises(ValueError):
        raise KeyError
