"""What is wrong with one caption: refusals, apologies, openings like "This image shows", broken text."""

import re
from collections import Counter

from limner.captions.spec import CaptionSpec
from limner.data.caption_faults import MARKUP, refuses
from limner.data.captions import MAX_CAPTION_LENGTH, count_word, has_word

_IMAGE = "(?:image|picture|photo|photograph|painting|illustration|drawing)"
_SHOW = "(?:shows|depicts|features|contains|displays|captures|presents|portrays|is of|of)"
OPENING = re.compile(
    rf"^\W*(?:(?:in )?(?:this|these) (?:[\w-]+ )?{_IMAGE}s?\b"
    rf"|in the {_IMAGE}\b|the (?:[\w-]+ )?{_IMAGE} {_SHOW}\b"
    r"|(?:an?|the) (?:image|picture) (?:of|showing|that)\b|(?:captions?|description)\s*\d*\s*:"
    r"|here(?:'s| is| are)\b|sure\b|certainly\b|of course\b|we (?:can )?see\b"
    r"|you can see\b|there is an? (?:image|picture)\b|it (?:shows|depicts)\b)",
    re.IGNORECASE,
)
_SHOWS = re.compile(
    r"^(?:in )?(?:this|the|an?) (?:image|picture|photo|photograph|painting|illustration)"
    r"(?: (?:shows|depicts|features|is of|of|displays|captures)|,? (?:there is|we see|we can see))\s+",
    re.IGNORECASE,
)
STYLE = re.compile(
    r"\bin (?:the|an?|this) (?:[\w-]+ ){0,3}style\b|\b(?:art|visual|drawing|painting|rendering) style\b"
    r"|\bstyli[sz]ed\b",
    re.IGNORECASE,
)
DANGLING = re.compile(
    r"(?:[,;:(\u2026-]|\.\.\.|\b(?:and|or|with|the|an?|of|in|on|at|to|by|for|from|its|his|her|their|is|are))$",
    re.IGNORECASE,
)


def without_opening(caption: str) -> str:
    """A caption without "The image shows": for captioners that cannot be told.

    >>> without_opening("The image shows a cat on a mat.")
    'A cat on a mat.'
    """
    bare = _SHOWS.sub("", " ".join(caption.split()))
    return bare[:1].upper() + bare[1:] if bare != caption else caption


def find_fault(caption: str, spec: CaptionSpec) -> str:
    """Why a caption cannot be used, as a person would say it to who wrote it; empty when it can."""
    text = " ".join(caption.split())
    words = len(text.split())
    checks = (
        (not re.search(r"\w", text), "it is empty"),
        (refuses(text, spec.trigger), "it is a refusal or an apology instead of a caption"),
        (OPENING.search(text), f"it opens with {' '.join(text.split()[:3])!r} instead of what is there"),
        (MARKUP.search(caption), "it has markup, numbering or code in it"),
        (len(text) > MAX_CAPTION_LENGTH, f"it has {len(text)} characters"),
        (_loops(text), "it repeats itself"),
        (
            words > 2 * spec.style.max_words,
            f"it has {words} words; at most {spec.style.max_words} are wanted",
        ),
        (
            words * 3 < spec.style.min_words,
            f"it has {words} words; at least {spec.style.min_words} are wanted",
        ),
        (spec.style.name != "tags" and DANGLING.search(text), f"it breaks off after {text[-20:]!r}"),
        *_about_trigger(text, spec),
    )
    return next((reason for wrong, reason in checks if wrong), "")


def _about_trigger(text: str, spec: CaptionSpec) -> tuple[tuple[object, str], ...]:
    if spec.concept_type == "style":
        has_trigger = bool(spec.trigger) and has_word(spec.trigger, text)
        return (
            (has_trigger or STYLE.search(text), "it names the style, which shall be learned without words"),
        )
    if not spec.names_trigger:
        return ()
    return (
        (not has_word(spec.trigger, text), f"it lacks the name {spec.trigger!r}"),
        (count_word(spec.trigger, text) > 2, f"it has the name {spec.trigger!r} more than twice"),
    )


def _loops(text: str) -> bool:
    """Small models can fall into saying four words again and again."""
    words = text.lower().split()
    fours = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return bool(fours) and max(fours.values()) >= 4
