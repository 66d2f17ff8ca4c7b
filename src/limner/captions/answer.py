"""Answers as data: what captioners must return, and reading it out of what they do return."""

import json
import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limner.captions.client import ANSWER_AT_MOST

Text = Annotated[str, Field(min_length=1)]


class AnswerModel(BaseModel):
    """Nothing besides what is asked for."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Captions(AnswerModel):
    """The captions of one image. An empty one is no fault of form: it is told of by :func:`flaws.flaw`."""

    captions: list[str]


class Word(AnswerModel):
    """One word for one thing."""

    use: Text
    instead_of: list[Text]


class Entry(AnswerModel):
    """The captions of one image among others."""

    id: int
    captions: list[str]


class Edited(AnswerModel):
    """The captions of a set, made to agree."""

    words: list[Word]
    captions: list[Entry]


Kind = TypeVar("Kind", bound=AnswerModel)


class Malformed(Exception):
    """Not an answer of the wanted form; the message says why, for who gave it."""


def schema(kind: type[AnswerModel]) -> dict[str, Any]:
    """The JSON schema of an answer, in the subset that servers hold models to: no bounds."""
    result = _plain(kind.model_json_schema())
    assert isinstance(result, dict)
    return result


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        no_server_keys = ("title", "description", "minLength", "minItems", "maxItems")
        return {
            key: _plain(item)
            for key, item in node.items()
            if key not in no_server_keys or isinstance(item, dict)
        }
    return [_plain(item) for item in node] if isinstance(node, list) else node


_REASONING = re.compile(
    r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)|\A.*?</(?:think|thinking|reasoning)>", re.S | re.I
)


def without_reasoning(text: str) -> str:
    """An answer without what a model thought before it, which may hold braces and drafts of captions.

    >>> without_reasoning("<think>{not yet}</think> {\"captions\": []}")
    '{"captions": []}'
    """
    return _REASONING.sub("", text).strip()


def read(kind: type[Kind], text: str) -> Kind:
    """The answer in a text: JSON, possibly with a fence or a sentence around it.

    Raises:
        Malformed: There is none.
    """
    if len(text) > ANSWER_AT_MOST:
        raise Malformed(f"it has {len(text)} characters")
    text = without_reasoning(text)
    start, end = text.find("{"), text.rfind("}")
    if not text.strip():
        raise Malformed("it is empty")
    if start < 0:
        raise Malformed("it is not the JSON object that was asked for")
    try:
        value = json.loads(text[start : end + 1] if end > start else text[start:])
    except (ValueError, RecursionError):
        raise Malformed("its JSON is broken or breaks off") from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"])) or "the object"
        raise Malformed(f"its JSON is of another form: {location}: {first['msg'].lower()}") from None
