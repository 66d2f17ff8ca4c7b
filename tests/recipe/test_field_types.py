from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from limner.recipe.field_types import Names, PathField, Size


def test_a_path_may_be_written_as_a_string_without_a_nul():
    paths = TypeAdapter(PathField)
    assert paths.validate_python("a/b") == Path("a/b")
    with pytest.raises(ValidationError, match="no system has such a path"):
        paths.validate_python("a\0b")


@pytest.mark.parametrize(
    ("text", "valid"), [("auto", True), ("12GB", True), ("a lot", False), ("0GB", False)]
)
def test_a_size_has_a_unit_or_is_chosen(text, valid):
    sizes = TypeAdapter(Size)
    if valid:
        assert sizes.validate_python(text) == text
    else:
        with pytest.raises(ValidationError):
            sizes.validate_python(text)


def test_names_are_a_list_of_words():
    names = TypeAdapter(Names)
    assert names.validate_python(["a", "b"]) == ("a", "b")
    for wrong in ("a", [""], [1]):
        with pytest.raises(ValidationError):
            names.validate_python(wrong, strict=True)
