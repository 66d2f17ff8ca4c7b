import pytest

from limner.importing.book import Book, ImportRow, is_set
from limner.importing.options import ForeignOption


@pytest.mark.parametrize("value", [None, "", False, [], {}, "None", "null"])
def test_empty_values_say_nothing(value: object):
    assert not is_set(value)


@pytest.mark.parametrize("value", [0, 0.0, True, "a", [0]])
def test_zero_says_something(value: object):
    assert is_set(value)


def test_a_setting_is_taken_once_and_leaves_a_row():
    book = Book([ForeignOption("a.lr", 1.0), ForeignOption("b.lr", None), ForeignOption("c", 2)])
    assert book.peek("lr") == 1.0
    for option in book.each("lr"):
        book.set(option, {"train.learning_rate": 1.0}, outcome="kept")
    assert book.take("lr") == [] and book.options == [ForeignOption("c", 2)]
    assert book.rows == [
        ImportRow("a.lr", 1.0, "kept", "train.learning_rate = 1.0"),
        ImportRow("b.lr", None, "off"),
    ]
    assert book.changes == {"train.learning_rate": 1.0}
