"""Words of textual inversions in a stock pipeline, loaded as other tools load them, and taken out again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from limner.errors import BadLora, BadUsage
from limner.lora import embeddings
from limner.lora.embeddings import Embedding
from limner.models.family import Family
from limner.models.registry import facts_of
from limner.run_folder import RunDir


def embedding_file(path: Path) -> Path:
    """The file itself, or that of a run.

    Raises:
        BadUsage: It is not there.
    """
    if not path.is_dir():
        if not path.exists():
            raise BadUsage(
                f"--embedding {path} does not exist. Give the file of a textual inversion, or a run."
            )
        return path
    run_file = RunDir(path).embedding_path
    if not run_file.exists():
        raise BadUsage(
            f'--embedding {path} has no {run_file.name}. Name a run of train.method = "inversion".'
        )
    return run_file


def require_words(family: Family, items: Sequence[Embedding]) -> None:
    """Raise ``BadLora`` or ``BadUsage`` where words are of another family, or two are the same."""
    facts = facts_of(family.pipeline)
    names = [embedding.word for embedding in items]
    for embedding in items:
        if facts is not None:
            embedding.by_encoder(facts)
        if names.count(embedding.word) > 1:
            raise BadUsage(
                f'Two textual inversions are of the word "{embedding.word}". Leave one out, or rename its '
                "file."
            )


@contextmanager
def with_words(pipe: Any, family: Family, items: Sequence[Embedding]) -> Iterator[None]:
    """While entered, prompts of a pipeline may hold these words.

    Args:
        pipe: The stock pipeline.
        family: Its family.
        items: The words with their vectors.

    Raises:
        BadLora: An encoder reads vectors of another width.
        BadUsage: A tokenizer has the word already.
    """
    facts = facts_of(family.pipeline)
    if not items or facts is None:
        yield
        return
    by_word = {embedding.word: embedding.by_encoder(facts) for embedding in items}
    encoders = dict.fromkeys(encoder for vectors in by_word.values() for encoder in vectors)
    before = {name: _Before(pipe, name) for name in encoders}
    try:
        for word, vectors in by_word.items():
            _load(pipe, word, vectors)
        yield
    finally:
        for state in before.values():
            state.restore()


def _load(pipe: Any, word: str, vectors: Mapping[str, Any]) -> None:
    for encoder, tensor in vectors.items():
        model, tokenizer = getattr(pipe, encoder), getattr(pipe, _tokenizer(encoder))
        width = model.get_input_embeddings().weight.shape[1]
        if tensor.shape[1] != width:
            raise BadLora(
                f'The vectors of "{word}" have {tensor.shape[1]} numbers, and {encoder} of this base reads '
                f"{width}. Name the base that it was made for with --base."
            )
        if word in tokenizer.get_vocab():
            raise BadUsage(
                f'"{word}", the word of a textual inversion, is a token of the base already. Rename its file.'
            )
        pipe.load_textual_inversion({word: tensor}, token=word, text_encoder=model, tokenizer=tokenizer)


def _tokenizer(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")


class _Before:
    """An encoder and its tokenizer as they were; meanwhile the pipeline has a copy of the tokenizer."""

    def __init__(self, pipe: Any, encoder: str) -> None:
        self._pipe, self._name, self._model = pipe, _tokenizer(encoder), getattr(pipe, encoder)
        self._table, self._size = self._model.get_input_embeddings(), self._model.config.vocab_size
        self._tokenizer = getattr(pipe, self._name)
        setattr(pipe, self._name, deepcopy(self._tokenizer))

    def restore(self) -> None:
        """Put them back."""
        self._model.set_input_embeddings(self._table)
        self._model.config.vocab_size = self._size
        setattr(self._pipe, self._name, self._tokenizer)


def words_of(path: Path) -> list[Embedding]:
    """Those of a file: its own, or those bundled in a LoRA."""
    return [embeddings.read(path)] if embeddings.is_embedding(path) else embeddings.bundled(path)
