"""The guide's before and after: that what it claims of each caption is what Limner says of it."""

import re
from pathlib import Path

import pytest

from limner import bases
from limner.annotate.agree import Member, findings
from limner.annotate.flaws import flaw
from limner.annotate.wish import Wish, unsigned

GUIDE = (Path(__file__).parents[2] / "docs/guide/captions.md").read_text(encoding="utf-8")
DEMO = Path(bases.__file__).parent / "glyph" / "demo"
WISHES = {"mascot": Wish(trigger="zorp"), "blueprint": Wish(goal="style", trigger="cyanprint")}
ROWS = re.findall(r"^\| ((?:mascot|blueprint)/\S+) \| (.*?) \| (.*?) \| (.*?) \|$", GUIDE, re.MULTILINE)


@pytest.mark.parametrize(("image", "before", "said", "after"), ROWS, ids=[row[0] for row in ROWS])
def test_before_and_after_are_as_they_are_told(image, before, said, after):
    wish = WISHES[image.split("/")[0]]
    assert (DEMO / f"{image}.png").is_file()
    assert flaw(before, wish) == said
    assert flaw(unsigned(after, wish), wish) == ""
    assert wish.trigger in after


def test_the_guide_has_both_goals():
    assert {row[0].split("/")[0] for row in ROWS} == set(WISHES)
    assert len(ROWS) == 5


def test_a_set_is_told_as_the_guide_says():
    captions, told = (block.splitlines() for block in re.findall(r"```text\n(.*?)```", GUIDE, re.DOTALL))
    assert findings([Member(str(n), (one,)) for n, one in enumerate(captions)], WISHES["mascot"]) == told
