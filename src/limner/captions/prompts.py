"""What captioners are told: files of text, each with its version, put together for a wish."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

from limner.captions.spec import CaptionSpec

FOLDER = Path(__file__).parent / "prompts"

COUNT_ONE = "Write exactly one caption."
COUNT_MORE = (
    "Write exactly $count captions. All say the same facts, each in another order, with other words and "
    "another build."
)
ANSWER_JSON = 'Answer with one JSON object and nothing else: {"captions": ["..."]}'
ANSWER_TEXT = "Answer with the caption and nothing else."
TRIGGER_RULE = (
    'The name "$name" stands for what is learned: exactly once in each caption, in the place of the noun, '
    "never explained, with no second noun for the same thing beside it."
)
TRIGGER_ABSENT = "What the set is about has no name. Call it by the same plain noun in each caption."
TRIGGER_LATER = "No name for what is learned stands in the captions: it is added later."
IDENTITY_RULE = (
    "No leaks. Words that say what is always true of the thing that is learned (its kind, build, colours, "
    "markings, face) do not belong into captions: take them out wherever the images have them in common."
)
IDENTITY_STYLE = (
    "No leaks. Words that say anything of the style (medium, technique, artist, lines, texture, finish) "
    "do not belong into captions: take them out, and leave the content."
)


@dataclass(frozen=True)
class Prompt:
    """A prompt put together."""

    text: str
    version: str
    """Of each file in it: "image.1 goal-subject.1 .."."""

    @property
    def sha256(self) -> str:
        """Of the text, 16 digits in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def record(self) -> dict[str, str]:
        """As it is noted beside each caption."""
        return {"version": self.version, "sha256": self.sha256}


@cache
def _file(name: str) -> tuple[str, str]:
    """(version, text) of a file in ``prompts/``."""
    head, _, text = (FOLDER / f"{name}.md").read_text(encoding="utf-8").partition("\n")
    return head.removeprefix("version:").strip(), text.strip()


def for_image(spec: CaptionSpec, *, plain: bool = False) -> Prompt:
    """What is said about each single image; ``plain`` wants the caption alone, else it is JSON."""
    trigger = "trigger-inside" if spec.names_trigger else "trigger-later" if spec.trigger else "trigger-none"
    concept, style = f"goal-{spec.concept_type}", f"style-{spec.style.name}"
    names = ("image", concept, trigger, style)
    count = COUNT_ONE if spec.variants == 1 else Template(COUNT_MORE).substitute(count=spec.variants)
    parts = {"goal": _file(concept)[1], "style": _file(style)[1], "count": count}
    parts["answer"] = ANSWER_TEXT if plain else ANSWER_JSON
    trigger_rule = Template(_file(trigger)[1]).substitute(name=spec.trigger)
    return Prompt(Template(_file("image")[1]).substitute(parts, trigger=trigger_rule), _versions(names))


def for_set(spec: CaptionSpec) -> Prompt:
    """What is said about all captions together."""
    rule = TRIGGER_RULE if spec.names_trigger else TRIGGER_LATER if spec.trigger else TRIGGER_ABSENT
    identity = IDENTITY_STYLE if spec.concept_type == "style" else IDENTITY_RULE
    style = f"style-{spec.style.name}"
    text = Template(_file("set")[1]).substitute(
        trigger=Template(rule).substitute(name=spec.trigger), identity=identity, style=_file(style)[1]
    )
    return Prompt(text, _versions(("set", style)))


def again(reason: str) -> str:
    """What is added when an answer could not be used."""
    return Template(_file("again")[1]).substitute(reason=reason)


def _versions(names: tuple[str, ...]) -> str:
    return " ".join(f"{name}.{_file(name)[0]}" for name in names)
