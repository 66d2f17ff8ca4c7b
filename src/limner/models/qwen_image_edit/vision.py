"""What Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923) makes of a text with images in it.

Its processor needs torchvision to be loaded, and diffusers' pipelines do not hand on what transformers 5
wants to know of the tokens, so that their text stands at positions that the model was not trained on
(huggingface/diffusers#14194). Here images stand where they stood in training. Nothing asks what a tensor
holds, so that all of it runs on the meta device too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue as the vision encoder reads them: the processor's, which are CLIP's."""

Grid = tuple[int, int]
"""Rows and columns of patches."""


def patches(image: Tensor, *, patch: int, merge: int, frames: int) -> tuple[Tensor, Grid]:
    """An image as the vision encoder reads it.

    The sides go to the nearest multiples of ``patch * merge``; the processor's bounds of the area lie outside
    of what an edit model is shown.

    Args:
        image: (1, 3, h, w) uint8.
        patch: Pixels of a side of a patch.
        merge: Patches of a side of a token.
        frames: How often a still image is repeated in time.

    Returns:
        (rows * columns, 3 * frames * patch ** 2) in fp32, the patches of a token one behind the other; and
        their number down and across.
    """
    height, width = (max(1, round(side / (patch * merge))) * patch * merge for side in image.shape[-2:])
    pixels = image.float()
    for size in ((image.shape[-2], width), (height, width)):  # whole numbers between, as Pillow has them
        if size != tuple(pixels.shape[-2:]):
            pixels = interpolate(pixels, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    mean, deviation = (pixels.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, DEVIATION))
    rows, columns = height // patch, width // patch
    parts = ((pixels / 255 - mean) / deviation).view(
        3, rows // merge, merge, patch, columns // merge, merge, patch
    )
    parts = parts.permute(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
    parts = parts.expand(*parts.shape[:5], frames, patch, patch)
    return parts.reshape(rows * columns, -1), (rows, columns)


def states(text_encoder: Any, tokens: Tensor, images: Sequence[Tensor]) -> Tensor:
    """The last states of a text with images.

    Args:
        text_encoder: transformers' ``Qwen2_5_VLForConditionalGeneration``.
        tokens: (1, L) ids, each image a single one.
        images: (1, 3, h, w) uint8 each, in their order in the text.

    Returns:
        (1, L', D), each image as long as the vision encoder makes it.
    """
    model, config = text_encoder.model, text_encoder.config.vision_config
    sizes = {"patch": config.patch_size, "merge": config.spatial_merge_size}
    parts, grids = zip(
        *(patches(item, frames=config.temporal_patch_size, **sizes) for item in images), strict=True
    )
    grid = torch.tensor([(1, *sides) for sides in grids])  # on the CPU: it is looked into
    position_ids = torch.cat([patch_positions(sides, sizes["merge"], tokens.device) for sides in grids])
    features = model.get_image_features(torch.cat(parts), grid, position_ids=position_ids).pooler_output
    spans = [(rows // sizes["merge"], columns // sizes["merge"]) for rows, columns in grids]
    ids, text_positions = spread(tokens[0], text_encoder.config.image_token_id, spans)
    embeds = model.get_input_embeddings()(ids)[None]
    is_image = (ids == text_encoder.config.image_token_id)[None, :, None]
    embeds = embeds.masked_scatter(is_image, torch.cat(list(features)).to(embeds.dtype))
    return model.language_model(
        inputs_embeds=embeds, position_ids=text_positions[:, None], use_cache=False
    ).last_hidden_state


def patch_positions(grid: Grid, merge: int, device: torch.device) -> Tensor:
    """(rows * columns, 2): row and column of each patch, in the order of :func:`patches`."""
    rows, columns = grid
    numbers = torch.arange(rows * columns, device=device)
    numbers = numbers.view(rows // merge, merge, columns // merge, merge).transpose(1, 2).flatten()
    return torch.stack([numbers // columns, numbers % columns], dim=-1)


def spread(tokens: Tensor, image_token: int, spans: Sequence[Grid]) -> tuple[Tensor, Tensor]:
    """Each image of a text as many tokens as it has, and where all of them stand.

    A token of text is a step further than the one before in time, row and column alike. Tokens of an image
    stand in rows and columns from where it begins, and the text goes on behind the longer side.

    Args:
        tokens: (L,) ids.
        image_token: The one that stands for an image.
        spans: Rows and columns of tokens of each image.

    Returns:
        (L',) ids and (3, L') positions: time, row, column.
    """
    device = tokens.device
    is_image = tokens == image_token
    number = (is_image.cumsum(0) - 1).clamp(min=0)
    ones = torch.ones_like(tokens)
    counts, steps = (
        torch.where(is_image, torch.tensor(values, device=device)[number], ones)
        for values in ([rows * columns for rows, columns in spans], [max(span) for span in spans])
    )
    length = len(tokens) + sum(rows * columns - 1 for rows, columns in spans)
    ids, starts = (
        torch.repeat_interleave(values, counts, output_size=length)
        for values in (tokens, steps.cumsum(0) - steps)
    )
    inner = [
        torch.stack(
            [
                torch.zeros(rows * columns, dtype=torch.int64, device=device),
                torch.arange(rows, device=device).repeat_interleave(columns),
                torch.arange(columns, device=device).repeat(rows),
            ]
        )
        for rows, columns in spans
    ]
    offsets = torch.zeros(3, length, dtype=torch.int64, device=device)
    offsets = offsets.masked_scatter((ids == image_token).expand(3, -1), torch.cat(inner, dim=1))
    return ids, starts + offsets
