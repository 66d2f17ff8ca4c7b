"""What Qwen-Image's text encoder sees of a picture: what the Coarse and Fine experts read beside the vectors.

Qwen2.5-VL reads the chat of Qwen-Image-Edit with the picture and no instruction; its last states behind the
system's part are read, as in DiffSynth-Studio's Qwen-Image pipeline: of 224 pixels 64 tokens of the picture
and 7 behind them, of 1024 pixels 1,369 and 7.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from limner.hyper.latents import with_weights
from limner.models.family import Family
from limner.models.loading import load
from limner.models.qwen_image_edit.family import TEXT_LENGTH, encode_text, tokenize
from limner.models.source import Source

SIDES = {"coarse": 224, "fine": 1024}
"""Expert -> pixels of the middle square that its text encoder is shown."""

TEXT_ENCODER = "text_encoder"
CPU = torch.device("cpu")


def states_of(
    images: Sequence[Image.Image], source: Source, family: Family, expert: str, tell: Callable[[str], None]
) -> list[Tensor]:
    """What a base's text encoder sees of pictures, (tokens, width) in float32 of each.

    Its weights are needed, those of the base's other parts are not fetched. On the CPU they are pages of
    their files, which the system takes back where memory is short.

    Args:
        images: RGB, of any sizes.
        source: The base; of a registered one its configs are enough.
        family: Its family.
        expert: ``coarse`` or ``fine``.
        tell: Is told licence and size before weights are fetched.

    Raises:
        BadBase: The weights cannot be had, or are damaged.
    """
    source = with_weights(source, (TEXT_ENCODER, "tokenizer"), tell)
    tokenizer = load(family, source, "tokenizer", dtype=torch.bfloat16, device=CPU)
    text_encoder = load(family, source, TEXT_ENCODER, dtype=torch.bfloat16, device=CPU)
    return image_states(tokenizer, text_encoder, images, expert)


@torch.no_grad()
def image_states(
    tokenizer: Any, text_encoder: Any, images: Sequence[Image.Image], expert: str
) -> list[Tensor]:
    """Pictures of any sizes -> (tokens, width) in float32 of each.

    Args:
        tokenizer: Of the base.
        text_encoder: Of the base, with its vision encoder.
        images: RGB.
        expert: ``coarse`` or ``fine``.
    """
    side = SIDES[expert]
    device = next(text_encoder.parameters()).device
    options = {"text_length": TEXT_LENGTH, "controls": 1, "with_names": False}
    tokens = tokenize.function(tokenizer, [""], **options).to(device)
    states = []
    for image in images:
        square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].to(device)
        states.append(encode_text.function(text_encoder, tokens, pixels)[0][0].float())
    return states
