"""The word of a textual inversion, as it is published: its files, and what the card says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limner.errors import BadUsage
from limner.lora import embeddings
from limner.lora.embeddings import ONLY
from limner.models.facts import FamilyFacts
from limner.run_folder import RunDir


@dataclass(frozen=True, kw_only=True)
class PublishedWord:
    """Token vectors, for diffusers and for the programs that know a word by the name of its file."""

    word: str
    vectors: int
    """In each text encoder."""
    encoders: tuple[tuple[str, str], ...]
    """Text encoder of the pipeline, and the key of its vectors in the file for diffusers."""
    diffusers: Path
    word_file: Path
    """Of A1111, Forge and ComfyUI."""

    @property
    def sources(self) -> dict[str, Path]:
        """Name that others see -> file."""
        return {"embedding.safetensors": self.diffusers, self.word_file.name: self.word_file}

    def diffusers_lines(self, repo: str) -> list[str]:
        """Python that gives the word to a pipeline ``pipe``."""
        if self.encoders[0][1] == ONLY:
            return [f'pipe.load_textual_inversion("{repo}", weight_name="embedding.safetensors")']
        lines = [f'state = load_file(hf_hub_download("{repo}", "embedding.safetensors"))']
        for encoder, key in self.encoders:
            tokenizer = encoder.replace("text_encoder", "tokenizer")
            lines.append(
                f'pipe.load_textual_inversion(state["{key}"], token={self.word!r}, '
                f"text_encoder=pipe.{encoder}, tokenizer=pipe.{tokenizer})"
            )
        return lines

    def imports(self) -> Sequence[str]:
        """What these lines want."""
        if self.encoders[0][1] == ONLY:
            return ()
        return ("from huggingface_hub import hf_hub_download", "from safetensors.torch import load_file")


def require_word(run: RunDir) -> None:
    """Raise ``BadUsage`` unless a run has written its word."""
    if not run.embedding_path.is_file():
        name = run.embedding_path.name
        raise BadUsage(f"{run.path} has no {name} yet. Finish it with: limner train {run.path}")


def word_of(run: RunDir, family: FamilyFacts) -> PublishedWord:
    """The word that a run trained.

    Raises:
        BadUsage: A file of it is missing.
        BadLora: One is not safe.
    """
    require_word(run)
    embedding = embeddings.read(run.embedding_path)
    word_file = run.embeddings_path / f"{embeddings.file_word(embedding.word)}.safetensors"
    if not word_file.is_file():
        raise BadUsage(
            f"{run.path} has no embeddings/{word_file.name}. Finish it with: limner train {run.path}"
        )
    return PublishedWord(
        word=embedding.word,
        vectors=embedding.count,
        encoders=tuple(
            (encoder, key or ONLY)
            for encoder, key in family.embeddings.items()
            if (key or ONLY) in embedding.vectors
        ),
        diffusers=run.embedding_path,
        word_file=word_file,
    )
