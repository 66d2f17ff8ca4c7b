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
from limner.captions.picture import Picture
from limner.captions.spec import Wish, signed, unsigned
from limner.data.captions import count_word, has_word

TOGETHER = 20
"""Captions that one request edits."""
FIXED_AT_MOST = 40
"""Captions that are shown besides and stay as they are."""
ASKED_AT_MOST = 2
FEW = 4
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
    fixed: bool = False
    """Written or edited by hand, or agreed on before."""


@dataclass
class Agreement:
    """What the pass did."""

    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """File -> its captions now, of those that were edited."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """The word that is used -> those that it replaced."""
    flags: dict[str, str] = field(default_factory=dict)
    """File -> why its captions stayed as they were."""
    asked: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    model: str = ""


def findings(members: Sequence[Member], wish: Wish) -> list[str]:
    """What is wrong with captions as a set, a line each, as far as it can be counted."""
    found = []
    firsts = [member.captions[0] for member in members if member.captions]
    if leaked := shared_words(firsts, wish):
        found.append(
            f"nearly all captions say {', '.join(leaked)}: the trigger, or the model, will be tied to it"
        )
    if opening := shared_opening(firsts, wish):
        found.append(f"more than half of the captions open with {opening!r}")
    if wish.trigger:
        every = [(member.file, one) for member in members for one in member.captions]
        lacking = sorted({file for file, one in every if not has_word(wish.trigger, one)})
        if lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            found.append(f"the trigger {wish.trigger!r} is missing in {', '.join(lacking[:3])}{more}")
        often = sorted({file for file, one in every if count_word(wish.trigger, one) > 1})
        if often:
            found.append(f"the trigger {wish.trigger!r} is there more than once in {', '.join(often[:3])}")
    return found


def shared_words(captions: Sequence[str], wish: Wish) -> list[str]:
    """Words, but little ones and the trigger's, in at least four fifths of four captions or more."""
    if len(captions) < FEW:
        return []
    own = set(re.findall(r"\w+", wish.trigger.lower()))
    counts = Counter(word for one in captions for word in set(re.findall(r"[a-z]{3,}", one.lower())))
    least = 0.8 * len(captions)
    return sorted(w for w, n in counts.items() if n >= least and w not in _LITTLE and w not in own)


def shared_opening(captions: Sequence[str], wish: Wish) -> str:
    """The first three words, the trigger being one, of more than half of the captions; else empty."""
    if len(captions) < FEW:
        return ""
    name = wish.trigger.lower()
    openings = Counter()
    for one in captions:
        words = (one.lower().replace(name, "\0") if name else one.lower()).split()[:3]
        openings[" ".join(words)] += 1
    opening, count = openings.most_common(1)[0]
    return opening.replace("\0", wish.trigger) if count * 2 > len(captions) and " " in opening else ""


def agree(
    provider: Provider,
    wish: Wish,
    members: Sequence[Member],
    patience: Patience,
    known: Mapping[str, list[str]],
    look: Callable[[str], Picture],
) -> Iterator[Agreement]:
    """Make the captions of a set agree, in portions; what earlier ones decided binds the later ones.

    Args:
        provider: Who is asked.
        wish: What every caption must be.
        members: All images with captions; the fixed ones are shown, up to 40 of them, and never changed.
        patience: How long to try.
        known: Words agreed on in an earlier call: the word that is used -> those that it replaces.
        look: File -> the small copy that is shown.

    Yields:
        The result of each portion, once it is settled.

    Raises:
        BadProvider: The provider answers nobody.
    """
    words = {use: list(others) for use, others in known.items()}
    fixed = [member for member in members if member.fixed]
    free = [member for member in members if not member.fixed and member.captions]
    notes = findings(members, wish)
    for start in range(0, len(free), TOGETHER):
        portion = free[start : start + TOGETHER]
        pictures = {member.file: look(member.file) for member in portion}
        context = _Context(fixed[-FIXED_AT_MOST:], words, notes, pictures)
        done = _portion(provider, wish, portion, context, patience)
        for use, others in done.words.items():
            words[use] = sorted({*words.get(use, []), *others})
        fixed += [Member(m.file, done.captions.get(m.file, m.captions), fixed=True) for m in portion]
        yield done


@dataclass(frozen=True)
class _Context:
    fixed: Sequence[Member]
    words: Mapping[str, list[str]]
    findings: Sequence[str]
    pictures: Mapping[str, Picture]


def _portion(
    provider: Provider, wish: Wish, portion: Sequence[Member], context: _Context, patience: Patience
) -> Agreement:
    done, tokens, reason = Agreement(), 4096, ""
    todo = dict(enumerate(portion, 1))
    while todo and done.asked < ASKED_AT_MOST:
        request = Request(
            system=prompts.for_set(wish).text,
            text=_question(todo, context, wish, reason),
            pictures=tuple(context.pictures[member.file] for member in todo.values()),
            labels=tuple(f"Image {number}:" for number in todo),
            schema=schema(Edited),
            tokens=tokens,
        )
        try:
            reply = patience.ask(provider, request)
        except Declined as error:
            reason = str(error)
            break
        done.asked += 1
        done.tokens_in += reply.tokens_in
        done.tokens_out += reply.tokens_out
        done.model = reply.model
        if reply.refused or reply.cut:
            reason, tokens = reply.refused or "it was cut off before its end", 2 * tokens
            continue
        try:
            edited = read(Edited, reply.text)
        except Malformed as error:
            reason = str(error)
            continue
        reason = _take(edited, todo, wish, done)
    done.flags |= {member.file: reason for member in todo.values()}
    return done


def _take(edited: Edited, todo: dict[int, Member], wish: Wish, done: Agreement) -> str:
    """Move what is right in an answer from ``todo`` to ``done``; what is wrong with the rest."""
    said = {word.use.strip(): [one.strip() for one in word.instead_of] for word in edited.words}
    given = {entry.id: entry.captions for entry in edited.captions}
    reasons = []
    for number, member in list(todo.items()):
        texts = tuple(" ".join(one.split()) for one in given.get(number, []))
        wrong = _wrong(texts, member, wish, said)
        if wrong:
            reasons.append(f"caption {number}: {wrong}")
        else:
            done.captions[member.file] = tuple(signed(one, wish) for one in texts)
            del todo[number]
    for use, others in said.items():
        done.words[use] = sorted({*done.words.get(use, []), *others} - {use})
    return "; ".join(reasons[:5])


def _wrong(texts: tuple[str, ...], member: Member, wish: Wish, said: Mapping[str, list[str]]) -> str:
    if len(set(texts)) != len(member.captions):
        return f"{len(set(texts))} different texts; {len(member.captions)} are wanted"
    for text in texts:
        if reason := validators.flaw(text, wish):
            return reason
        for use, others in said.items():
            for other in others:
                if other.lower() not in use.lower() and has_word(other, text):
                    return f"it says {other!r} where {use!r} was agreed on"
    return ""


def _question(todo: Mapping[int, Member], context: _Context, wish: Wish, reason: str) -> str:
    lines = []
    if context.findings:
        lines += ["Counted in this set:", *(f"- {one}" for one in context.findings), ""]
    if context.words:
        lines += ["Agreed on already:", json.dumps(context.words, ensure_ascii=False), ""]
    if context.fixed:
        lines += ["Fixed:", *(json.dumps(m.captions, ensure_ascii=False) for m in context.fixed), ""]
    lines.append("To edit:")
    for number, member in todo.items():
        bare = [unsigned(one, wish) for one in member.captions]
        lines.append(json.dumps({"id": number, "captions": bare}, ensure_ascii=False))
    return "\n".join([*lines, *(["", prompts.again(reason)] if reason else [])])
