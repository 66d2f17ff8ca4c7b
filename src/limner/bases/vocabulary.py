"""The base's two tokenizers, learned from its own caption grammar: CLIP's byte-level BPE, T5's unigram.

Learned here rather than by the trainers of ``tokenizers``, whose choice among equals changes from run to
run. Every word of the grammar is one token; any other word, such as a trigger, falls into several pieces.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

from limner.bases.art import TRAINED_STYLES, nouns
from limner.bases.captions import caption, choose

SIZE = 2048
"""The most entries that either vocabulary has."""
CLIP_LENGTH = 77
WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")
"""CLIP's words, as far as the grammar has any."""
END = "</w>"
PART, LETTER = -12.0, -20.0
"""Log-likelihoods of pieces and letters, below every word's: a word that is known is never cut."""


def sentences() -> Iterator[str]:
    """The grammar's sentences about every noun, and each noun alone."""
    for position, noun in enumerate(nouns()):
        yield noun
        for turn in range(24):
            seed = position * 1000 + turn
            yield caption(noun, TRAINED_STYLES[turn % len(TRAINED_STYLES)], choose(seed), seed)


def clip_tokenizer() -> CLIPTokenizer:
    """Start 0, end and padding 1: transformers then pools at the first end, as it does for FLUX."""
    letters = sorted(ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + END for letter in letters)]
    words = Counter(word for sentence in sentences() for word in WORD.findall(sentence.lower()))
    merges = byte_pairs(words, SIZE - len(pieces))
    pieces += [left + right for left, right in merges]
    vocab = {piece: n for n, piece in enumerate(pieces)}
    make: Any = CLIPTokenizer  # takes pairs, and declares strings
    return make(vocab=vocab, merges=merges, model_max_length=CLIP_LENGTH)


def byte_pairs(words: Counter[str], limit: int) -> list[tuple[str, str]]:
    """Up to ``limit`` merges, the commonest pair first (arXiv:1508.07909); of equals, the first in order."""
    spellings = {word: [*word[:-1], word[-1] + END] for word in words}
    merges: list[tuple[str, str]] = []
    tokens = set()
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spellings.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += words[word]
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for parts in spellings.values():
            _join(parts, left, right)
        if left + right not in tokens:
            tokens.add(left + right)
            merges.append((left, right))
    return merges


def _join(parts: list[str], left: str, right: str) -> None:
    position = 0
    while position < len(parts) - 1:
        if parts[position] == left and parts[position + 1] == right:
            parts[position : position + 2] = [left + right]
        position += 1


def t5_tokenizer() -> T5TokenizerFast:
    """Padding 0, end 1, unknown 2, as T5 has them; like T5's, it tells capitals from small letters."""
    words = Counter(f"▁{word}" for sentence in sentences() for word in re.findall(r"[^\s,]+", sentence))
    total = sum(words.values())
    scores = {word: math.log(count / total) for word, count in sorted(words.items())}
    scores |= dict.fromkeys(("▁", *map(chr, range(33, 127))), LETTER) | {",": -1.0}
    parts = Counter(part for word in words for part in _parts(word))
    spare = SIZE - 3 - len(scores)
    common = sorted((part for part in parts if part not in scores), key=lambda part: (-parts[part], part))
    scores |= {part: math.log(parts[part] / len(words)) + PART for part in common[:spare]}
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5TokenizerFast(vocab=[*special, *scores.items()], extra_ids=0, model_max_length=512)


def _parts(word: str) -> set[str]:
    """Substrings of 2 to 4 letters."""
    return {
        word[start : start + length]
        for length in (2, 3, 4)
        for start in range(len(word) - length + 1)
        if len(word) > length
    }
