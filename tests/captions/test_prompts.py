import hashlib
import itertools

import pytest

from limner.captions import prompts
from limner.captions.spec import CONCEPT_TYPES, STYLES, CaptionSpec

SIGNS = {
    "again": ("1", "3d892c3f"),
    "goal-concept": ("1", "c6c4d9a5"),
    "goal-face": ("1", "58124b0b"),
    "goal-object": ("1", "a7f9db43"),
    "goal-style": ("1", "d96743f4"),
    "goal-subject": ("1", "3f2edcd9"),
    "image": ("1", "2a3437b1"),
    "style-brief": ("1", "cad93f74"),
    "style-phrases": ("1", "a8f95306"),
    "style-sentences": ("1", "71c56bcb"),
    "style-tags": ("1", "33f17fa6"),
    "set": ("1", "69e92cbf"),
    "trigger-inside": ("1", "8b371280"),
    "trigger-later": ("1", "83d7519e"),
    "trigger-none": ("1", "17153981"),
}
"""File -> (version, start of the hash of its text). Who changes a prompt raises its version and this."""


@pytest.mark.parametrize(("concept", "style"), list(itertools.product(CONCEPT_TYPES, STYLES)))
def test_every_wish_has_its_prompt_with_nothing_left_open(concept, style):
    for trigger in ("", "sks $cat"):
        wish = CaptionSpec(concept_type=concept, style=STYLES[style], trigger=trigger, variants=2)
        one, together = prompts.for_image(wish), prompts.for_set(wish)
        for text in (one.text, together.text):
            assert "$" not in text.replace("sks $cat", "")
        assert f"goal-{concept}.1" in one.version
        assert f"style-{style}.1" in one.version
        assert "exactly 2 captions" in one.text
        assert ("sks $cat" in one.text) == wish.names_trigger


def test_a_prompt_is_named_by_what_it_says():
    one, other = prompts.for_image(CaptionSpec(trigger="a")), prompts.for_image(CaptionSpec(trigger="b"))
    assert one.version == other.version
    assert one.sha256 != other.sha256
    assert one.record == {
        "version": one.version,
        "sha256": hashlib.sha256(one.text.encode()).hexdigest()[:16],
    }


def test_plain_captioners_are_not_asked_for_json():
    assert "JSON" in prompts.for_image(CaptionSpec()).text
    assert "JSON" not in prompts.for_image(CaptionSpec(), plain=True).text


def test_the_reason_is_given_when_asked_again():
    assert "set aside: it is empty." in prompts.again("it is empty")


def test_a_changed_prompt_has_a_new_version():
    signs = {}
    for path in sorted(prompts.FOLDER.glob("*.md")):
        head, _, text = path.read_text(encoding="utf-8").partition("\n")
        assert head.startswith("version: "), path.name
        signs[path.stem] = (head.removeprefix("version: "), hashlib.sha256(text.encode()).hexdigest()[:8])
    assert signs == SIGNS
