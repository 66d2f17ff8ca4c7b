"""The set pass: all captions read together, so that they agree in words, in the trigger, in what is left out.

Part of it is arithmetic: what do nearly all captions say, do they open alike, where is the trigger missing.
The rest is asked of a model, whose answer is taken only as far as it keeps the rules.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from limner.captions import prompts, validators
from limner.captions.answer import Edited, Malformed, read, schema
from limner.captions.client import Declined, Patience, Provider, Request
from limner.captions.prompt_image import PromptImage
from limner.captions.spec import CaptionSpec, add_trigger, strip_trigger
from limner.data.captions import count_word, has_word

CAPTIONS_PER_REQUEST = 20
"""Captions that one request edits."""
MAX_FIXED = 40
"""Captions that are shown besides and stay as they are."""
MAX_REQUESTS = 2
MIN_IMAGES = 4
"""Below so many images nothing can be said of what they share."""

_LITTLE = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at behind below beneath beside between by for from has have her his in inside into
        is it its near next of off on onto one out outside over she he side that the their them there they
        this to toward towards two under up upon view was while which who with front back left right top above
        across against along around low background light daylight lit close wide shot angle before eye""",
    )
)


@dataclass(frozen=True)
class Member:
    """One image of the set with its captions."""

    file: str
    captions: tuple[str, ...]
    is_fixed: bool = False
    """Written or edited by hand, or agreed on before."""


@dataclass
class Revision:
    """What the pass did."""

    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """File -> its captions now, of those that were edited."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """The word that is used -> those that it replaced."""
    flags: dict[str, str] = field(default_factory=dict)
    """File -> why its captions stayed as they were."""
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    model: str = ""


def set_findings(members: Sequence[Member], spec: CaptionSpec) -> list[str]:
    """What is wrong with captions as a set, a line each, as far as it can be counted."""
    notes = []
    firsts = [member.captions[0] for member in members if member.captions]
    if words := shared_words(firsts, spec):
        notes.append(
            f"nearly all captions say {', '.join(words)}: the trigger, or the model, will be tied to it"
        )
    if opening := shared_opening(firsts, spec):
        notes.append(f"more than half of the captions open with {opening!r}")
    if spec.trigger:
        pairs = [(member.file, caption) for member in members for caption in member.captions]
        lacking = sorted({file for file, caption in pairs if not has_word(spec.trigger, caption)})
        if lacking:
            rest = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            notes.append(f"the trigger {spec.trigger!r} is missing in {', '.join(lacking[:3])}{rest}")
        often = sorted({file for file, caption in pairs if count_word(spec.trigger, caption) > 1})
        if often:
            notes.append(f"the trigger {spec.trigger!r} is there more than once in {', '.join(often[:3])}")
    return notes


def shared_words(captions: Sequence[str], spec: CaptionSpec) -> list[str]:
    """Words, but little ones and the trigger's, in at least four fifths of four captions or more."""
    if len(captions) < MIN_IMAGES:
        return []
    trigger_words = set(re.findall(r"\w+", spec.trigger.lower()))
    counts = Counter(word for caption in captions for word in set(re.findall(r"[a-z]{3,}", caption.lower())))
    threshold = 0.8 * len(captions)
    return sorted(
        w for w, n in counts.items() if n >= threshold and w not in _LITTLE and w not in trigger_words
    )


def shared_opening(captions: Sequence[str], spec: CaptionSpec) -> str:
    """The first three words, the trigger being one, of more than half of the captions; else empty."""
    if len(captions) < MIN_IMAGES:
        return ""
    name = spec.trigger.lower()
    openings = Counter()
    for caption in captions:
        words = (caption.lower().replace(name, "\0") if name else caption.lower()).split()[:3]
        openings[" ".join(words)] += 1
    opening, count = openings.most_common(1)[0]
    return opening.replace("\0", spec.trigger) if count * 2 > len(captions) and " " in opening else ""


def make_consistent(
    provider: Provider,
    spec: CaptionSpec,
    members: Sequence[Member],
    patience: Patience,
    agreed_words: Mapping[str, list[str]],
    load_image: Callable[[str], PromptImage],
) -> Iterator[Revision]:
    """Make the captions of a set agree, in portions; what earlier ones decided binds the later ones.

    Args:
        provider: Who is asked.
        spec: What every caption must be.
        members: All images with captions; the fixed ones are shown, up to 40 of them, and never changed.
        patience: How long to try.
        agreed_words: Words agreed on in an earlier call: the word that is used -> those that it replaces.
        load_image: File -> the small copy that is shown.

    Yields:
        The result of each portion, once it is settled.

    Raises:
        BadProvider: The provider answers nobody.
    """
    words = {use: list(replaced_words) for use, replaced_words in agreed_words.items()}
    references = [member for member in members if member.is_fixed]
    free = [member for member in members if not member.is_fixed and member.captions]
    notes = set_findings(members, spec)
    for start in range(0, len(free), CAPTIONS_PER_REQUEST):
        portion = free[start : start + CAPTIONS_PER_REQUEST]
        images = {member.file: load_image(member.file) for member in portion}
        context = _Context(references[-MAX_FIXED:], words, notes, images)
        result = _portion(provider, spec, portion, context, patience)
        for use, replaced_words in result.words.items():
            words[use] = sorted({*words.get(use, []), *replaced_words})
        references += [
            Member(m.file, result.captions.get(m.file, m.captions), is_fixed=True) for m in portion
        ]
        yield result


@dataclass(frozen=True)
class _Context:
    is_fixed: Sequence[Member]
    words: Mapping[str, list[str]]
    findings: Sequence[str]
    images: Mapping[str, PromptImage]


def _portion(
    provider: Provider, spec: CaptionSpec, portion: Sequence[Member], context: _Context, patience: Patience
) -> Revision:
    result, tokens, reason = Revision(), 4096, ""
    todo = dict(enumerate(portion, 1))
    while todo and result.requests < MAX_REQUESTS:
        request = Request(
            system=prompts.for_set(spec).text,
            text=_question(todo, context, spec, reason),
            images=tuple(context.images[member.file] for member in todo.values()),
            labels=tuple(f"Image {number}:" for number in todo),
            schema=schema(Edited),
            tokens=tokens,
        )
        try:
            reply = patience.ask(provider, request)
        except Declined as error:
            reason = str(error)
            break
        result.requests += 1
        result.tokens_in += reply.tokens_in
        result.tokens_out += reply.tokens_out
        result.model = reply.model
        if reply.refusal or reply.cut:
            reason, tokens = reply.refusal or "it was cut off before its end", 2 * tokens
            continue
        try:
            answer = read(Edited, reply.text)
        except Malformed as error:
            reason = str(error)
            continue
        reason = _take(answer, todo, spec, result)
    result.flags |= {member.file: reason for member in todo.values()}
    return result


def _take(answer: Edited, todo: dict[int, Member], spec: CaptionSpec, result: Revision) -> str:
    """Move what is right in an answer from ``todo`` to ``result``; what is wrong with the rest."""
    replacements = {word.use.strip(): [text.strip() for text in word.instead_of] for word in answer.words}
    captions = {entry.id: entry.captions for entry in answer.captions}
    reasons = []
    for number, member in list(todo.items()):
        texts = tuple(" ".join(text.split()) for text in captions.get(number, []))
        wrong = _wrong(texts, member, spec, replacements)
        if wrong:
            reasons.append(f"caption {number}: {wrong}")
        else:
            result.captions[member.file] = tuple(add_trigger(text, spec) for text in texts)
            del todo[number]
    for use, replaced_words in replacements.items():
        result.words[use] = sorted({*result.words.get(use, []), *replaced_words} - {use})
    return "; ".join(reasons[:5])


def _wrong(
    texts: tuple[str, ...], member: Member, spec: CaptionSpec, replacements: Mapping[str, list[str]]
) -> str:
    if len(set(texts)) != len(member.captions):
        return f"{len(set(texts))} different texts; {len(member.captions)} are wanted"
    for text in texts:
        if reason := validators.find_fault(text, spec):
            return reason
        for use, replaced_words in replacements.items():
            for other in replaced_words:
                if other.lower() not in use.lower() and has_word(other, text):
                    return f"it says {other!r} where {use!r} was agreed on"
    return ""


def _question(todo: Mapping[int, Member], context: _Context, spec: CaptionSpec, reason: str) -> str:
    lines = []
    if context.findings:
        lines += ["Counted in this set:", *(f"- {text}" for text in context.findings), ""]
    if context.words:
        lines += ["Agreed on already:", json.dumps(context.words, ensure_ascii=False), ""]
    if context.is_fixed:
        lines += ["Fixed:", *(json.dumps(m.captions, ensure_ascii=False) for m in context.is_fixed), ""]
    lines.append("To edit:")
    for number, member in todo.items():
        bare = [strip_trigger(text, spec) for text in member.captions]
        lines.append(json.dumps({"id": number, "captions": bare}, ensure_ascii=False))
    return "\n".join([*lines, *(["", prompts.again(reason)] if reason else [])])
