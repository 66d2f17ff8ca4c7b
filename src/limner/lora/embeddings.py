"""Files of textual inversions: the token vectors of a word, as diffusers, A1111 and ComfyUI read them.

Two forms. Of a base with one text encoder a file holds one tensor, whose key is the word (diffusers'
``learned_embeds.safetensors``) or ``emb_params`` (A1111, which takes the word from the file's name). Of
others it holds one for each encoder: ``clip_l``, ``clip_g``, ``t5``. In a LoRA's file A1111 and OneTrainer
bundle them under ``bundle_emb.WORD.KEY``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from limner.errors import BadLora
from limner.files import atomic_write
from limner.lora.file import tensor_hash
from limner.lora.metadata import HASH, LoraMetadata, header, header_entries
from limner.models.facts import FamilyFacts
from limner.models.registry import families

ONLY = "emb_params"
"""A1111's key of the only encoder's vectors."""
ENCODERS = ("clip_l", "clip_g", "t5")
"""Keys of one of several encoders."""
BUNDLE = re.compile(r"bundle_emb\.(?P<word>.+)\.(?P<key>clip_l|clip_g|t5|emb_params|string_to_param\.\*)")
"""Keys of vectors in a LoRA's file."""
MARK = "limner.word"
"""Entry of a header: the word, which the file's name may not bear."""
SIDES = re.compile(r"[<>]")


@dataclass(frozen=True)
class Embedding:
    """The vectors of a word."""

    word: str
    vectors: Mapping[str, Tensor]
    """Key (:data:`ENCODERS`, or :data:`ONLY`) -> (k, D) in fp32."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Vectors in each encoder."""
        return len(next(iter(self.vectors.values())))

    @property
    def sha256(self) -> str:
        """Of the vectors, in hex."""
        return tensor_hash(dict(self.vectors)).removeprefix("0x")

    @property
    def trained_steps(self) -> int | None:
        """As the file says."""
        steps = self.metadata.get("ss_steps", "")
        return int(steps) if steps.isascii() and steps.isdigit() else None

    def by_encoder(self, facts: FamilyFacts) -> dict[str, Tensor]:
        """Text encoder of a family -> its vectors.

        Raises:
            BadLora: They are of another family's encoders.
        """
        keys = {encoder: key or ONLY for encoder, key in facts.embeddings.items()}
        if unknown := [key for key in self.vectors if key not in keys.values()]:
            able = f"those of {facts.name} are {', '.join(keys.values())}" if keys else "it reads none"
            raise BadLora(
                f"The textual inversion of {self.word!r} has vectors {unknown[0]}, which {facts.name} has no "
                f"place for: {able}. Name another base with --base."
            )
        return {encoder: self.vectors[key] for encoder, key in keys.items() if key in self.vectors}


CLIP_L = 768
"""Numbers of a vector of CLIP-L, the only encoder of SD 1.5."""


def families_of(embedding: Embedding) -> list[str]:
    """Names of the families that have a place for these vectors, as far as keys and widths tell."""
    keys = set(embedding.vectors)
    return [
        name
        for name, facts in families().items()
        if facts.embeddings and keys <= {key or ONLY for key in facts.embeddings.values()}
        if keys != {ONLY} or embedding.vectors[ONLY].shape[1] == CLIP_L
    ]


def file_word(word: str) -> str:
    """A word as the name of a file, which is the word for A1111 and ComfyUI: without angle brackets."""
    return SIDES.sub("", word)


def is_embedding(path: Path) -> bool:
    """Whether a file holds a textual inversion and no LoRA, by the names in its header.

    Raises:
        BadLora: It is not safe.
    """
    head = header(path)
    names = set(head.tensors)
    if names <= {*ENCODERS, ONLY} or MARK in head.metadata:
        return True
    (shape,) = (entry[1] for entry in head.tensors.values()) if len(names) == 1 else ((),)
    return len(names) == 1 and len(shape) in (1, 2) and "." not in next(iter(names))


def read(path: Path) -> Embedding:
    """Read a file of diffusers, A1111 or ComfyUI.

    Raises:
        BadLora: It is not safe, or holds no textual inversion.
    """
    head = header(path)
    flat = _tensors(path)
    if not is_embedding(path):
        raise BadLora(f"{path} holds no textual inversion: its first tensor is {next(iter(flat))}.")
    names = list(flat)
    if set(names) <= set(ENCODERS):
        word, vectors = path.stem, flat
    else:
        word, vectors = (path.stem if names[0] == ONLY else names[0]), {ONLY: flat[names[0]]}
    return _checked(Embedding(head.metadata.get(MARK, word), vectors, head.metadata), path)


def bundled(path: Path) -> list[Embedding]:
    """The textual inversions in a LoRA's file, by word.

    Raises:
        BadLora: It is not safe.
    """
    names = [name for name in header(path).tensors if BUNDLE.fullmatch(name)]
    if not names:
        return []
    flat = _tensors(path)
    words: dict[str, dict[str, Tensor]] = {}
    for name in names:
        match = BUNDLE.fullmatch(name)
        assert match
        key = match["key"] if match["key"] in ENCODERS else ONLY
        words.setdefault(match["word"], {})[key] = flat[name]
    return [_checked(Embedding(word, vectors), path) for word, vectors in words.items()]


def as_bundle(embedding: Embedding) -> dict[str, Tensor]:
    """Key in a LoRA's file -> vectors."""
    return {f"bundle_emb.{embedding.word}.{key}": tensor for key, tensor in embedding.vectors.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadLora(f"{path} cannot be read: {error}. Get it again, or export it again.") from error


def _checked(embedding: Embedding, path: Path) -> Embedding:
    vectors = {
        key: (tensor[None] if tensor.dim() == 1 else tensor).float()
        for key, tensor in embedding.vectors.items()
    }
    shapes = [tuple(tensor.shape) for tensor in vectors.values()]
    if any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise BadLora(
            f"{path}: the vectors of {embedding.word!r} have the shapes {shapes}; each encoder needs as "
            "many, of two sides. Export it again."
        )
    if not all(tensor.isfinite().all() for tensor in vectors.values()):
        raise BadLora(f"{path} holds NaN or infinity in the vectors of {embedding.word!r}. Export it again.")
    return Embedding(embedding.word, vectors, embedding.metadata)


def entries(info: LoraMetadata, word: str) -> dict[str, str]:
    """The header of a file: what a LoRA's says, but for the network."""
    texts = {key: text for key, text in header_entries(info, {}).items() if not key.startswith("ss_network")}
    return texts | {MARK: word}


def write(path: Path, embedding: Embedding, *, key: str = ONLY) -> None:
    """Write a file and read it back.

    Args:
        path: Ends in .safetensors.
        embedding: What to write, its metadata included.
        key: Name of the only encoder's vectors: the word for diffusers, :data:`ONLY` for A1111.

    Raises:
        BadLora: A number is not finite, or the disk gave back other bytes.
    """
    flat = {
        key if name == ONLY else name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in embedding.vectors.items()
    }
    _checked(Embedding(embedding.word, flat), path)
    metadata = {name: text for name, text in embedding.metadata.items() if name != HASH}

    _put(path, flat, metadata)


def add_to_lora(path: Path, embedding: Embedding) -> None:
    """Put vectors into a LoRA's file, as kohya's tools bundle them, and read it back.

    Raises:
        BadLora: The file is not safe, or the disk gave back other bytes.
    """
    metadata = dict(header(path).metadata)
    flat = _tensors(path) | {
        key: tensor.detach().to("cpu", torch.float32).contiguous()
        for key, tensor in as_bundle(embedding).items()
    }
    metadata |= {HASH: tensor_hash(flat)} if HASH in metadata else {}
    _put(path, flat, metadata)


def _put(path: Path, flat: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    def write_draft(draft: Path) -> None:
        draft.write_bytes(save(dict(flat), dict(metadata)))
        copy = load_file(draft)
        if copy.keys() != flat.keys() or not all(torch.equal(copy[name], flat[name]) for name in flat):
            raise BadLora(f"{path.name} read back is not what was written. Check the disk.")

    atomic_write(path, write_draft)
