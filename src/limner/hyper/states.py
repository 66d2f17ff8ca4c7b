"""What Qwen2.5-VL sees of a picture: the states that the Coarse and Fine experts read, or their mean, a look.

Qwen2.5-VL reads the chat of Qwen-Image-Edit with the picture and no instruction; its last states behind the
system's part are read, as in DiffSynth-Studio's Qwen-Image pipeline: of 224 pixels 64 tokens of the picture
and 7 behind them, of 1024 pixels 1,369 and 7.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from limner.hyper.latents import with_weights
from limner.models.bundled import known
from limner.models.family import Family
from limner.models.loading import load
from limner.models.qwen_image_edit.family import TEXT_LENGTH, encode_text, tokenize
from limner.models.source import Source

SIDES = {"coarse": 224, "fine": 1024}
"""Expert -> pixels of the middle square that its text encoder is shown."""

TEXT_ENCODER = "text_encoder"
CPU = torch.device("cpu")
CHAT_TOKENS = 72
"""Of the chat without an instruction, the picture counted as one."""


class ChatEncoder(nn.Module):
    """Qwen2.5-VL as an image encoder, without its head: the mean of its states of a picture of 224 pixels.

    Args:
        model: transformers' ``Qwen2_5_VLForConditionalGeneration``.
        tokens: (1, L) ids of the chat without an instruction; None on the meta device.
    """

    tokens: Tensor

    def __init__(self, model: Any, tokens: Tensor | None = None) -> None:
        """See the class."""
        super().__init__()
        model.lm_head = nn.Identity()  # a gigabyte that nobody asks
        self.model = model
        if tokens is None:
            tokens = torch.empty((1, CHAT_TOKENS), dtype=torch.int64, device="meta")
        self.register_buffer("tokens", tokens, persistent=False)
        self.config = model.config.text_config
        """With ``hidden_size``, the numbers of the vector."""

    def forward(self, image: Image.Image | Tensor) -> Tensor:
        """RGB picture of any size -> (width,) in float32; of a tensor on the meta device its shape alone."""
        if isinstance(image, Tensor):
            pixels = torch.empty((1, 3, *[SIDES["coarse"]] * 2), dtype=torch.uint8, device="meta")
        else:
            pixels = _square(image, SIDES["coarse"])
        return _states(self.model, self.tokens, pixels).mean(0)


def chat_encoder(model: Any, path: str) -> ChatEncoder:
    """A loaded Qwen2.5-VL with its tokenizer's chat.

    Args:
        model: transformers' ``Qwen2_5_VLForConditionalGeneration``.
        path: Folder or hub id, on this disk, with its tokenizer.

    Raises:
        OSError: There is no tokenizer.
        ValueError: It is another model's.
    """
    from transformers import Qwen2Tokenizer

    tokens = _chat(Qwen2Tokenizer.from_pretrained(path, local_files_only=True))
    if (tokens == model.config.image_token_id).sum() != 1:  # where there is none, transformers makes one up
        raise ValueError(
            "its tokenizer (tokenizer.json, tokenizer_config.json) is missing or another model's"
        )
    return ChatEncoder(model, tokens)


def published_sizes() -> dict[str, Any]:
    """The config of the 7 B model: that of Qwen-Image's text encoder."""
    return known("qwen-image").config(TEXT_ENCODER)


def _chat(tokenizer: Any) -> Tensor:
    """(1, L) ids of the chat without an instruction."""
    return tokenize.function(tokenizer, [""], text_length=TEXT_LENGTH, controls=1, with_names=False)


def _square(image: Image.Image, side: int) -> Tensor:
    """The middle square, (1, 3, side, side) uint8."""
    square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None]


def _states(text_encoder: Any, tokens: Tensor, pixels: Tensor) -> Tensor:
    """(tokens, width) in float32 of a picture."""
    device = tokens.device
    return encode_text.function(text_encoder, tokens, pixels.to(device))[0][0].float()


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
    tokens = _chat(tokenizer).to(next(text_encoder.parameters()).device)
    return [_states(text_encoder, tokens, _square(image, SIDES[expert])) for image in images]
