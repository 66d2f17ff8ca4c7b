"""A vision model that says how alike pictures are: CLIP, SigLIP, DINOv2 and their kin, by transformers."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limner.errors import BadBase, first_line
from limner.models.loading import LOAD_ERRORS, hush

SAME_KIND_DISTANCE = 0.2
"""Distance, 1 minus the cosine, below which such models have two pictures of one kind."""
BATCH = 16


def encoded(name: str, images: Iterable[Image.Image]) -> np.ndarray:
    """Features of pictures, (N, D) float32, each of length 1.

    Args:
        name: A folder in transformers layout, or a hub id whose files are on this machine.
        images: RGB, of any size; 16 are in memory at a time.

    Raises:
        BadBase: It is not there, not in safetensors, or no vision model.
    """
    from transformers import AutoImageProcessor, AutoModel  # takes a second to load

    hush()
    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, local_files_only=True)
        model: Any = AutoModel.from_pretrained(name, local_files_only=True, use_safetensors=True)
        model = model.eval().requires_grad_(requires_grad=False)
        rows = [_features(model, processor(images=batch, return_tensors="pt")) for batch in _batches(images)]
    except LOAD_ERRORS as error:
        reason = first_line(error).partition(". ")[0]  # the rest is advice for who calls the library
        raise BadBase(
            f"The encoder {name} cannot be used: {reason}. Name a folder with a vision model, "
            f"or fetch it: hf download {name}"
        ) from error
    points = torch.cat(rows).float()
    return (points / points.norm(dim=1, keepdim=True)).numpy()


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
