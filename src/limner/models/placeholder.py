"""A new word in captions, which stands for trained token vectors: what tokenizers make of it.

By the rules of diffusers' ``TextualInversionLoaderMixin``: a word of k vectors is k tokens, ``<word>``,
``<word>_1``, .. , and each time it stands in a prompt it is written out as all of them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limner.errors import BadRecipe


@dataclass(frozen=True)
class Placeholder:
    """A new word and its number of vectors. Empty: there is none."""

    word: str = ""
    count: int = 0
    encoders: tuple[str, ...] = ()
    """Text encoders that have the vectors."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """What tokenizers learn."""
        return tuple(f"{self.word}_{number}" if number else self.word for number in range(self.count))

    def stands_in(self, caption: str) -> bool:
        """Whether the word may stand in a caption: some tokenizers tell capitals from small letters."""
        return bool(self.word) and self.word.lower() in caption.lower()

    def knows(self, part: str) -> bool:
        """Whether a part of a base learns the word: the tokenizer of an encoder with vectors."""
        return part.replace("text_encoder", "").replace("tokenizer", "text_encoder") in self.encoders

    def taught(self, name: str, tokenizer: Any) -> Any:
        """A tokenizer that knows the word, if it is to; as it was where not.

        Raises:
            BadRecipe: The word, or one of its further tokens, is in its vocabulary.
        """
        if not self.knows(name):
            return tokenizer
        vocabulary, pieces = tokenizer.get_vocab(), tokenizer.tokenize(self.word)
        is_known = len(pieces) == 1 and pieces[0] != tokenizer.unk_token
        if matches := [*pieces * is_known, *(token for token in self.tokens if token in vocabulary)]:
            raise BadRecipe(
                f'data.trigger is "{self.word}", and {name} has the token "{matches[0]}" already. Choose a '
                f'word that it does not know, such as "<{re.sub(r"[^a-z0-9-]", "", self.word.lower())}-1>".'
            )
        tokenizer.add_tokens(list(self.tokens))
        return _Expanding(tokenizer, self.tokens)

    def first(self, tokenizer: Any) -> int:
        """Id of the first of the tokens in a tokenizer that was taught them."""
        return int(tokenizer.convert_tokens_to_ids(self.word))


NO_WORD = Placeholder()
"""Of a training that learns no word."""


class WithoutNewWords:
    """What the kinds have in common that change all captions alike, or none."""

    def placeholder(self, family: Any) -> Placeholder:
        """None."""
        del family
        return NO_WORD

    def require_possible(self, spec: Any) -> None:
        """Nothing is asked of tokenizers."""

    def after_step(self, models: Mapping[str, Any]) -> list[Callable[..., None]]:
        """Nothing."""
        del models
        return []

    def first_lines(self, spec: Any, models: Mapping[str, Any], captions: Sequence[str]) -> list[str]:
        """Nothing."""
        del spec, models, captions
        return []

    def shape(self) -> dict[str, Any]:
        """Nothing besides."""
        return {}

    def show(self, units: Any, models: Mapping[str, Any], values: Mapping[str, Any], denoiser: Any) -> None:
        """Nothing."""


class _Expanding:
    """A tokenizer that reads a word as all of its tokens, in whatever text it stands."""

    def __init__(self, tokenizer: Any, tokens: Sequence[str]) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens

    def __call__(self, texts: str | Sequence[str], **options: Any) -> Any:
        if isinstance(texts, str):
            return self._tokenizer(self._expanded(texts), **options)
        return self._tokenizer([self._expanded(text) for text in texts], **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def _expanded(self, text: str) -> str:
        word = self._tokens[0]
        if len(self._tokens) == 1 or word not in self._tokenizer.tokenize(text):
            return text
        return text.replace(word, " ".join(self._tokens))
