"""Text from outside, as a page may show it: names, captions, messages. None of it is ever markup."""

import re

from limner.reporter import printable

MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|~<>$:&^])")
"""Whatever means something in the browser's Markdown, directives, mathematics or HTML."""


def plain(text: object) -> str:
    r"""A text that Markdown shows as it stands: ``plain("a*b*") == "a\\*b\\*"``.

    Control characters are escaped as on a terminal; line breaks become blanks.
    """
    return MARKUP.sub(r"\\\1", printable(" ".join(str(text).splitlines())))
