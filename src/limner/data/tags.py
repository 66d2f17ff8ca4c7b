"""Captions that are lists of tags, as booru taggers write them: shuffled and thinned into variants.

What kohya's sd-scripts call shuffle_caption, keep_tokens and caption_tag_dropout_rate. There each draw of an
image makes a new caption; here an image has so many of them, made once, so that the text encoders' states of
all of them are cached, and a run that goes on sees the same ones.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limner.data.captions import MAX_VARIANTS, has_word
from limner.data.folder import Example
from limner.data.order import shuffled, words
from limner.errors import BadData

if TYPE_CHECKING:
    from limner.recipe.schema import Data

_TAGS = 7
"""Domain of the draws, apart from those of an order."""


@dataclass(frozen=True, kw_only=True)
class TagRule:
    """What is done to the tags of a caption: a pure function of it and the seed."""

    shuffle: bool
    dropout: float
    """Probability, 0 to 1, that a tag is left out."""
    keep: int
    """So many first tags stay as they are; those with a trigger do anyway."""
    count: int
    """Variants of each caption, at most."""
    triggers: Sequence[str] = ()
    seed: int = 0

    def variants(self, caption: str) -> list[str]:
        """Up to ``count`` different captions; the caption alone where fewer than two of its tags may move."""
        tags = [tag for part in caption.split(",") if (tag := part.strip())]
        stays = [
            number < self.keep or any(has_word(trigger, tag) for trigger in self.triggers)
            for number, tag in enumerate(tags)
        ]
        head = [tag for tag, stay in zip(tags, stays, strict=True) if stay]
        rest = [tag for tag, stay in zip(tags, stays, strict=True) if not stay]
        if len(tags) < 2 or not rest:
            return [caption]
        position = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:6], "big") * 2**16
        # of few tags there are few orders: more draws than variants, and then no more
        texts = dict.fromkeys(self._variant(head, rest, position + draw) for draw in range(4 * self.count))
        return list(texts)[: self.count]

    def _variant(self, head: list[str], rest: list[str], position: int) -> str:
        draws = words(self.seed, _TAGS, position, 2 * len(rest)).tolist()
        pairs = zip(rest, draws[len(rest) :], strict=True)
        tags = [tag for tag, draw in pairs if draw >= self.dropout * 2**64]
        if self.shuffle:
            tags = shuffled(tags, iter(draws))
        return ", ".join([*head, *tags]) or rest[0]


def with_variants(examples: Sequence[Example], data: "Data", seed: int) -> list[Example]:
    """The examples, each with the variants of its captions, at most ``MAX_VARIANTS`` of an image.

    Args:
        examples: Those that are trained on; the validation loss is that of captions as they are.
        data: Of the recipe.
        seed: Of the run.

    Raises:
        BadData: No caption has a variant.
    """
    rule = TagRule(
        shuffle=data.tag_shuffle,
        dropout=data.tag_dropout,
        keep=data.keep_tags,
        count=data.tag_variants,
        triggers=data.triggers,
        seed=seed,
    )
    result: list[Example] = []
    for example in examples:
        texts = dict.fromkeys(text for caption in example.captions for text in rule.variants(caption))
        result.append(replace(example, captions=tuple(texts)[:MAX_VARIANTS]))
    if all(new.captions == old.captions for new, old in zip(result, examples, strict=True)):
        raise BadData(
            f"data.{'tag_shuffle' if data.tag_shuffle else 'tag_dropout'} is set, and no caption is a list "
            "of tags that may move: two or more, with commas between them, besides those that are kept. "
            "Caption the images with tags (limner caption FOLDER --style tags), or remove the key."
        )
    return result
