"""What the captions of a set say together: what is missing, repeated, or bound to the trigger by accident."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from limner.data.captions import has_word, word_spans

MIN_CAPTIONS = 4
"""Captions below which nothing can be said about what they share."""
MIN_REPEATS = 3
"""Images with one caption before it counts as repeated."""
NEARLY_ALL = 0.95
"""Share of the captions that a word must be in to be fused with the trigger."""
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an the of on in at with and or to from by for is are was were be it its this that these those as
        into over under near up down out his her their very""",
    )
)
"""Words that bind nothing."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True, kw_only=True)
class CaptionStats:
    """By index into the captions that were given."""

    missing: tuple[int, ...]
    """Images without a caption."""
    duplicates: tuple[tuple[int, ...], ...]
    """Groups of images with one caption, and no other that sets them apart."""
    without_trigger: tuple[int, ...]
    """Captions that lack the trigger, when others have it."""
    trigger_case: tuple[int, ...]
    """Captions that have the trigger in other letters: ``SKS cat`` for ``sks cat``."""
    trigger_position: tuple[int, ...]
    """Captions with the trigger in the middle, when most begin with it, or the other way round."""
    common_words: tuple[str, ...]
    """Words that nearly every caption has besides the trigger."""
    common_opening: str
    """The words that nearly every caption begins with, after the trigger."""


def caption_stats(captions: Sequence[Sequence[str]], trigger: str = "") -> CaptionStats:
    """Look at the captions of a set, as they stand in the files.

    Args:
        captions: The variants of each image; none where it has none.
        trigger: The words that shall call up what is learned; empty: there are none.
    """
    indices = [index for index, texts in enumerate(captions) if texts]
    with_word = [index for index in indices if all(_finds(trigger, text) for text in captions[index])]
    front = [index for index in with_word if all(_front(trigger, text) for text in captions[index])]
    elsewhere = [index for index in with_word if index not in set(front)]
    return CaptionStats(
        missing=tuple(index for index, texts in enumerate(captions) if not texts),
        duplicates=_repeated(captions, _plain(trigger)),
        without_trigger=tuple(sorted(set(indices) - set(with_word))) if trigger and with_word else (),
        trigger_case=tuple(
            index
            for index in with_word
            if trigger and not all(_exact(trigger, text) for text in captions[index])
        ),
        trigger_position=_few(front, elsewhere) if trigger else (),
        common_words=_fused([captions[index] for index in indices], trigger),
        common_opening=_opening([text for index in indices for text in captions[index]], trigger),
    )


def _repeated(captions: Sequence[Sequence[str]], bare: str) -> tuple[tuple[int, ...], ...]:
    """One caption of several may be the same everywhere: the others tell the images apart."""
    texts_of = [{_plain(text) for text in texts} - {bare} for texts in captions]
    counts = Counter(text for texts in texts_of for text in texts)
    by_text: dict[str, list[int]] = defaultdict(list)
    for index, texts in enumerate(texts_of):
        if all(counts[text] >= MIN_REPEATS for text in texts):
            for text in texts:
                by_text[text].append(index)
    return tuple(dict.fromkeys(tuple(texts) for texts in by_text.values() if len(texts) >= MIN_REPEATS))


def _few(front: list[int], elsewhere: list[int]) -> tuple[int, ...]:
    """The smaller side, when the larger is at least three times as large."""
    smaller, larger = sorted((front, elsewhere), key=len)
    return tuple(smaller) if smaller and len(larger) >= 3 * len(smaller) else ()


def _fused(captions: Sequence[Sequence[str]], trigger: str) -> tuple[str, ...]:
    if len(captions) < MIN_CAPTIONS:
        return ()
    trigger_words = set(_words(trigger))
    counts = Counter(word for texts in captions for word in {w for text in texts for w in _words(text)})
    first = _words(" ".join(text for texts in captions for text in texts))
    minimum = NEARLY_ALL * len(captions)
    shared = [
        w
        for w, count in counts.items()
        if count >= minimum and w not in trigger_words and w not in STOP_WORDS
    ]
    return tuple(sorted(shared, key=first.index))


def _opening(captions: Sequence[str], trigger: str) -> str:
    """The longest run of at least three words that nearly all captions begin with."""
    if len(captions) < MIN_CAPTIONS:
        return ""
    trigger_words = _words(trigger)
    rests = [_words(text) for text in captions]
    rests = [
        words[len(trigger_words) :] if words[: len(trigger_words)] == trigger_words else words
        for words in rests
    ]
    best = ""
    for length in range(3, 9):
        starts = Counter(tuple(words[:length]) for words in rests if len(words) >= length)
        if not starts or (top := starts.most_common(1)[0])[1] < NEARLY_ALL * len(captions):
            break
        best = " ".join(top[0])
    return best


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_without(text))]


def _without(text: str) -> str:
    """Placeholders stand for the trigger, which is nobody's word."""
    return re.sub(r"[\[{]trigger[\]}]", " ", text, flags=re.IGNORECASE)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _finds(trigger: str, text: str) -> bool:
    return bool(trigger) and (_exact(trigger, text) or has_word(trigger, text))


def _exact(trigger: str, text: str) -> bool:
    return bool(word_spans(trigger, text, flags=0)) or _without(text) != text


def _front(trigger: str, text: str) -> bool:
    """Whether the trigger is among the first four words: "a photo of sks cat" counts."""
    before = re.split(rf"{re.escape(trigger)}|[\[{{]trigger[\]}}]", text, maxsplit=1, flags=re.IGNORECASE)[0]
    return len(_WORD.findall(before)) <= 3
