"""A vision model that says how alike pictures are: CLIP, SigLIP, DINOv2 and their kin, by transformers."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limner.errors import BadBase, first_line
from limner.imports import hush
from limner.models.auto_class import class_in
from limner.models.loading import LOAD_ERRORS, pretrained

SAME_KIND_DISTANCE = 0.2
"""Distance, 1 minus the cosine, below which such models have two pictures of one kind."""
BATCH = 16


class ImageEncoder:
    """A vision model of transformers, and its text tower where it has one.

    Args:
        name: A folder in transformers layout, or a hub id whose files are on this machine.
        device: Where to compute.

    Raises:
        BadBase: It is not there, not in safetensors, or no vision model.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        """See the class."""
        from transformers import MODEL_MAPPING, AutoImageProcessor  # takes a second to load

        hush()
        self.name, self.device = name, device
        with self._refusing():
            self._processor: Any = AutoImageProcessor.from_pretrained(name, local_files_only=True)
            model, _ = pretrained(class_in(MODEL_MAPPING, name), name)
            self._model = model.eval().requires_grad_(requires_grad=False).to(device)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except LOAD_ERRORS as error:
            reason = first_line(error).partition(". ")[0]  # the rest is advice for who calls the library
            raise BadBase(
                f"The encoder {self.name} cannot be used: {reason}. Name a folder with a vision model, "
                f"or fetch it: hf download {self.name}"
            ) from error

    def images(self, images: Iterable[Image.Image]) -> np.ndarray:
        """Features of pictures, (N, D) float32, each of length 1.

        Args:
            images: RGB, of any size; 16 are in memory at a time.

        Raises:
            BadBase: It is no vision model.
        """
        with self._refusing():
            rows = [
                _features(self._model, self._processor(images=batch, return_tensors="pt").to(self.device))
                for batch in _batches(images)
            ]
        return _unit(torch.cat(rows))

    @property
    def reads_text(self) -> bool:
        """Whether it has a text tower beside that for images, as CLIP and SigLIP do."""
        return "get_text_features" in dir(type(self._model))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Features of texts, (N, D) float32, each of length 1, in the space of the images'.

        Args:
            texts: Cut where they are longer than the model reads.

        Raises:
            BadBase: Its tokenizer is not there.
        """
        from transformers import AutoTokenizer

        with self._refusing():
            tokenizer: Any = AutoTokenizer.from_pretrained(self.name, local_files_only=True)
            vocabulary = self._model.config.text_config.vocab_size
            if len(tokenizer) < vocabulary // 2:  # without its files transformers makes an empty one
                raise ValueError(f"its tokenizer knows {len(tokenizer)} of {vocabulary} tokens")
            longest = self._model.config.text_config.max_position_embeddings
            # SigLIP was trained on texts padded to the full length, and CLIP looks at the end mark alone
            tokens = tokenizer(
                list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
            )
            output = self._model.get_text_features(**tokens.to(self.device))
        return _unit(output if isinstance(output, Tensor) else output.pooler_output)


def encoded(name: str, images: Iterable[Image.Image]) -> np.ndarray:
    """Features of pictures, (N, D) float32, each of length 1, by an encoder that is then let go.

    Args:
        name: A folder in transformers layout, or a hub id whose files are on this machine.
        images: RGB, of any size; 16 are in memory at a time.

    Raises:
        BadBase: It is not there, not in safetensors, or no vision model.
    """
    return ImageEncoder(name).images(images)


def _unit(points: Tensor) -> np.ndarray:
    points = points.float()
    return (points / points.norm(dim=1, keepdim=True)).cpu().numpy()


def _batches(images: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    iterator = iter(images)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _features(model: Any, inputs: Any) -> Tensor:
    """(B, D): the image tower of a model of two, else the pooled state, else the mean of the states."""
    if "get_image_features" in dir(type(model)):
        output = model.get_image_features(**inputs)
        return output if isinstance(output, Tensor) else output.pooler_output
    output = model(**inputs)
    pooled = output.get("pooler_output")
    return output.last_hidden_state.mean(1) if pooled is None else pooled
