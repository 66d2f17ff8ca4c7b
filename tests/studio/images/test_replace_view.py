"""Find and replace shows first."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from image_scenes import press
from limner.studio.images.replace_view import additions, compiled, replacements
from studio_scenes import words

Draw = Callable[..., AppTest]


def test_find_and_replace_shows_first_and_can_be_undone(draw: Draw, cats: Path) -> None:
    app = draw("images", images="images/cats", view="replace")
    next(box for box in app.text_input if box.label == "Find").set_value("CAT").run()
    next(box for box in app.text_input if box.label == "Replace with").set_value("a*b*").run()
    assert r"a\*b\*" in words(app) and (cats / "0.txt").read_text() == "a cat, number 0"
    press(app, "Change 4 captions")
    assert (cats / "3.txt").read_text() == "a a*b*, number 3\n"
    press(app, "Undo")
    assert (cats / "3.txt").read_text() == "a cat, number 3\n"


def test_replacing_knows_words_case_patterns_and_both_ends() -> None:
    texts = {"a": "a cat, concat", "b": "Cat\nsits"}
    whole = compiled("cat", is_case=True, is_whole=True, is_regex=False)
    assert replacements(texts, whole, "dog") == {"a": "a dog, concat"}
    groups = compiled(r"(c)at", is_case=False, is_whole=False, is_regex=True)
    assert replacements(texts, groups, r"\1ow") == {"a": "a cow, concow", "b": "Cow\nsits"}
    word = compiled("red", is_case=True, is_whole=True, is_regex=False)
    assert replacements({"a": "a cat, red, wet"}, word, "") == {"a": "a cat, wet"}
    assert replacements({"a": "a  b"}, compiled("x", is_case=True, is_whole=False, is_regex=False), "") == {}
    assert additions({"b": "Cat\nsits", "c": ""}, "zxq", in_front=True) == {
        "b": "zxq, Cat\nzxq, sits",
        "c": "zxq",
    }
    assert additions({"a": "one\n\ntwo"}, "end", in_front=False) == {"a": "one\n\ntwo, end"}


@pytest.mark.parametrize(("pattern", "text"), [("(", ""), ("a", r"\7")])
def test_a_pattern_that_is_none_is_told(draw: Draw, cats: Path, pattern: str, text: str) -> None:
    app = draw("images", images="images/cats", view="replace")
    next(box for box in app.text_input if box.label == "Find").set_value(pattern)
    next(box for box in app.text_input if box.label == "Replace with").set_value(text)
    next(box for box in app.checkbox if box.label == "Regular expression").set_value(True).run()
    assert app.error and cats.is_dir()
