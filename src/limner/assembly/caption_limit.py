"""How much of a caption a base reads: one measure for training and for ``check``."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from limner.errors import BadBase, first_line
from limner.graph.unit import Unit
from limner.models.family import Family
from limner.models.loading import LOAD_ERRORS, load
from limner.models.source import Source

TokenCounter = Callable[[str], tuple[int, int]]
"""Caption -> (its tokens, tokens that are read) of the encoder that reads most: T5 reads on after CLIP."""


class _Measured:
    """A tokenizer that notes how long each text would be uncut, and where it is cut."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.counts: list[tuple[int, int]] = []

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        if limit := options.get("max_length"):
            ids = self._tokenizer(list(texts), truncation=False, verbose=False).input_ids
            self.counts += [(len(row), limit) for row in ids]
        return self._tokenizer(texts, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def token_counter(family: Family, source: Source, units: Iterable[Unit]) -> TokenCounter:
    """What counts the tokens of a caption as the family's own units make them, templates of chats included.

    Args:
        family: Of the base.
        source: Its files; its tokenizers are loaded.
        units: The family's, with their constants bound.

    Raises:
        BadBase: A tokenizer is missing or damaged.
    """
    tokenizing = [unit for unit in units if unit.uses and unit.uses[0].startswith("tokenizer")]
    device = torch.device("cpu")
    tokenizers = {
        unit.uses[0]: _Measured(load(family, source, unit.uses[0], dtype=torch.float32, device=device))
        for unit in tokenizing
    }

    def count(caption: str) -> tuple[int, int]:
        for tokenizer in tokenizers.values():
            tokenizer.counts.clear()
        for unit in tokenizing:
            try:
                unit.run(tokenizers, {"caption": (caption,)})
            except LOAD_ERRORS as error:
                raise BadBase(
                    f"{source.name}: {unit.uses[0]}/ cannot be used: {first_line(error)}. {source.again}"
                ) from error
        pairs = [pair for tokenizer in tokenizers.values() for pair in tokenizer.counts]
        return max(pairs, key=lambda pair: (pair[1], pair[0]), default=(0, 0))

    return count


def cut_captions(counter: TokenCounter, captions: Iterable[str]) -> list[str]:
    """A line on the captions of which the end is not read; nothing where all are read whole.

    Args:
        counter: What ``token_counter`` gives.
        captions: As training reads them, the trigger included.
    """
    texts = list(dict.fromkeys(captions))
    counts = [counter(text) for text in texts]
    excess = [count for count, limit in counts if count > limit]
    if not excess:
        return []
    return [
        f"{len(excess)} of {len(texts)} captions have more than the {counts[0][1]} tokens that are read (the "
        f"longest has {max(excess)}); the rest is not read. Put what matters first, or shorten them."
    ]
