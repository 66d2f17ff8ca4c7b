"""Image encoders of the published predictors, through transformers: one vector of a picture.

Sizes and normalisation as DiffSynth-Studio's ``siglip2_image_encoder.py`` and ``dinov3_image_encoder.py``
have them: the middle square at 1024 pixels, from there bilinear to the encoder's own size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from limner.errors import BadBase, first_line
from limner.models.loading import LOAD_ERRORS, hush

SIDE = 1024
"""Pixels of the square that every picture becomes first."""


@dataclass(frozen=True)
class VisionEncoder:
    """An image encoder of transformers."""

    name: str
    model_class: str
    hub_id: str
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENCODERS = {
    encoder.name: encoder
    for encoder in (
        VisionEncoder(
            "siglip2",
            "SiglipVisionModel",
            "google/siglip2-giant-opt-patch16-384",
            "Apache-2.0",
            HALF,
            HALF,
        ),
        VisionEncoder(
            "dinov3",
            "DINOv3ViTModel",
            "facebook/dinov3-vit7b16-pretrain-lvd1689m",
            "DINOv3 License, to be accepted on the hub",
            *IMAGENET,
        ),
        VisionEncoder("dinov2", "Dinov2Model", "facebook/dinov2-giant", "Apache-2.0", *IMAGENET),
    )
}
"""Name -> encoder. Its vector is ``pooler_output``: SigLIP's attention pool, DINO's normed class token."""


def load_encoder(name: str, folder: str = "") -> Any:
    """An encoder with its weights, in evaluation mode, as they are stored.

    Args:
        name: One of :data:`ENCODERS`.
        folder: Where it lies; "" for the hub's cache.

    Raises:
        BadBase: It is not on this disk, or damaged; the message has the command that fetches it.
    """
    import transformers

    hush()
    encoder = ENCODERS[name]
    path = folder or encoder.hub_id
    try:
        cls = getattr(transformers, encoder.model_class)
        model = cls.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype="auto")
    except LOAD_ERRORS as error:
        if folder and Path(folder).is_dir():
            raise BadBase(f"{folder} is no {name} encoder that can be read: {first_line(error)}.") from error
        raise BadBase(
            f"The encoder {name} ({encoder.licence}) is not on this disk. Fetch it: "
            f"hf download {encoder.hub_id}"
        ) from error
    return model.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def embed(name: str, model: Any, image: Image.Image) -> Tensor:
    """RGB picture of any size -> (width,) in float32."""
    encoder = ENCODERS[name]
    side = model.config.image_size
    square = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    values = (torch.from_numpy(pixels) - torch.tensor(encoder.mean)) / torch.tensor(encoder.std)
    batch = values.permute(2, 0, 1)[None].to(next(model.parameters()).dtype)
    return model(pixel_values=batch).pooler_output[0].float()
