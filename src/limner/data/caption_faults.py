"""What stands in a caption and describes no picture: refusals, leftovers of programs, syntax of prompts."""

import re
import unicodedata
from typing import Literal, NamedTuple

from limner.data.captions import word_spans

_QUOTE = "['\u2019]"
REFUSAL = re.compile(
    rf"^\W*(?:i(?:{_QUOTE}?m| am) (?:sorry|afraid|unable|not able)|(?:i )?apolog|sorry\b(?!-)"
    rf"|i (?:can ?not|can{_QUOTE}?t|won{_QUOTE}?t|will not|must decline|do not|don{_QUOTE}?t)\b"
    rf"|unfortunately,? i\b|unable to\b|as an ai\b|no caption\b)"
    rf"|\bas an ai (?:language )?model\b|\bi can(?:no|{_QUOTE})?t (?:assist|help|identify|describe|provide)\b"
    r"|\bagainst my (?:guidelines|policy)\b",
    re.IGNORECASE,
)
MARKUP = re.compile(r"^\s*(?:[-*#>]\s|\d+[.)]\s)|\*\*|```|^\s*[{\[]\s*[\"{\[]|</?\w+>|<\|", re.MULTILINE)
_LEFTOVERS = (
    (
        re.compile(r"</?think(?:ing)?>|</?reasoning>|<\|\w+\|>", re.IGNORECASE),
        "a model's reasoning or control words",
    ),
    (re.compile(r"```"), "a code fence"),
    (re.compile(r"^\s*\{\s*[\"'}]|[\"']\s*\}\s*$"), "JSON"),
    (re.compile(r"^\s*\[\s*[\"'].*[\"']\s*,?\s*\]\s*$", re.DOTALL), "a list in brackets"),
    (
        re.compile(
            r"^\W*(?:here(?:'s| is| are) |sure\b|certainly\b|of course\b|captions?\W*\s*:)", re.IGNORECASE
        ),
        'an opening such as "Here is the caption:"',
    ),
    (re.compile(r"\*\*|^\s*(?:#+|[-*>]|\d+[.)])\s", re.MULTILINE), "markup or numbering"),
)
_SYNTAX = (
    (re.compile(r"<(?:lora|lyco|hypernet):[^>]*>", re.IGNORECASE), "a LoRA call"),
    (re.compile(r"\([^()]*:\s*\d*\.?\d+\s*\)"), "weights such as (word:1.3)"),
    (re.compile(r"\bBREAK\b"), "BREAK"),
    (re.compile(r"\{[^{}]*\|[^{}]*\}|__[\w/-]+__"), "wildcards such as {a|b}"),
    (re.compile(r"&(?:#\d+|#x[0-9a-f]+|[a-z]{2,8});", re.IGNORECASE), "entities such as &amp;"),
    (re.compile(r"(?<!:)\\[nrt]|\\[()]"), "backslashes such as \\n"),
    (re.compile(r"^\s*([\"'\u201c]).*[\"'\u201d]\s*$", re.DOTALL), "quotes around it"),
)
PLACEHOLDERS = re.compile(
    r"\[(?:name|filewords|subject|token|instance|class)\]|<(?:trigger|token|name|concept|s\d+)>|%\w+%|(?-i:\bTOK\b)"
    r"|\{(?:name|token|prompt|filewords)\}",
    re.IGNORECASE,
)
"""What other trainers replace in captions, and Limner does not."""
_NOTHING = re.compile(r"(?:none|null|nan|n/?a|undefined|nil|<na>|unknown|no caption|todo|tbd)", re.IGNORECASE)


class CaptionFault(NamedTuple):
    """What is wrong with a caption, and how bad that is for training."""

    kind: Literal["no-description", "syntax"]
    """It describes no picture, or it holds what is read as words."""
    reason: str


def refuses(text: str, trigger: str) -> bool:
    """Whether a caption is a refusal, also behind the trigger that a person or a model put before it."""
    first = next(iter(word_spans(trigger, text)), None)
    is_before = first and not re.search(r"\w", text[: first[0]])
    return bool(REFUSAL.search(text) or (first and is_before and REFUSAL.search(text[first[1] :])))


def caption_fault(text: str, trigger: str = "") -> CaptionFault | None:
    """What of a caption training would learn although no picture shows it; None: nothing.

    Args:
        text: As it stands in its file, white space collapsed or not.
        trigger: ``data.trigger``, which may stand before it; what is part of it is no fault.
    """
    bare = text.removeprefix(trigger).strip(" ,.:;") if trigger else text.strip(" ,.:;")
    if _NOTHING.fullmatch(bare):
        return CaptionFault("no-description", f'is the word "{bare}"')
    if refuses(text, trigger):
        return CaptionFault("no-description", "is a refusal or an apology")
    rest = (text.replace(trigger, " ") if trigger else text).strip(" ,:;")
    for pattern, name in _LEFTOVERS:
        if pattern.search(rest):
            return CaptionFault("no-description", f"has {name} in it")
    if controls := sorted({f"U+{ord(letter):04X}" for letter in rest if _is_control(letter)}):
        return CaptionFault("syntax", f"has characters that show nothing in it ({', '.join(controls[:3])})")
    if match := PLACEHOLDERS.search(rest):
        return CaptionFault("syntax", f"has the placeholder {match[0]} in it, which is not replaced")
    names = [name for pattern, name in _SYNTAX if pattern.search(rest)]
    return CaptionFault("syntax", f"has {' and '.join(names)}, read as words") if names else None


def _is_control(letter: str) -> bool:
    """Control characters, and marks of no width; joiners are part of emoji and of some scripts."""
    if letter in "\t\n\r\u200c\u200d":
        return False
    return unicodedata.category(letter) == "Cc" or letter in "\u200b\u2060\ufeff"
