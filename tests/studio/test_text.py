"""Text from outside is never markup."""

import pytest

from limner.studio.text import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat", "a cat"),
        ("<script>", r"\<script\>"),
        ("![x](http://h/x.png)", r"\!\[x\]\(http\://h/x\.png\)"),
        (":red[x] $x$", r"\:red\[x\] \$x\$"),
        ("a\nb", "a b"),
        ("a\x1b[2Jb", r"a\\x1b\[2Jb"),
    ],
)
def test_markup_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown
