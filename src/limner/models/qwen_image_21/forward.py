"""The forward pass of Qwen-Image 2.1's transformer, for text before one image.

diffusers' own asks where the image's tokens are of tensors, which must be on the host and hold numbers; here
it is known from the shapes, so the pass runs without weights to be planned, and waits for no device. It
gives the same to the bit (tests/models/qwen_image_21). Two things differ: a time keeps its precision, which
diffusers rounds to that of the weights; and in a batch the image stands behind the text of its own length,
where diffusers counts the padding of a shorter caption in, and so has it see each image elsewhere than alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


class Rotations:
    """Rotary angles of each sample's own, (B, L, D), in the place of one (L, D) for all of a batch."""

    def __init__(self, angles: Tensor) -> None:
        """See the class."""
        self.angles = angles

    def unsqueeze(self, _: int) -> Tensor:
        """(B, L, 1, D), one for all heads: what diffusers makes of (L, D)."""
        return self.angles[:, :, None]


def forward(
    model: Any,
    hidden_states: Tensor,
    context: Tensor,
    timestep: Tensor,
    text_mask: Tensor | None,
    grid_h: int,
) -> tuple[Tensor]:
    """-> what the model says of text and image, (B, L + T, C).

    Args:
        model: ``QwenImage21Transformer2DModel``.
        hidden_states: Tokens of the image, (B, T, C), row by row.
        context: States of the text, (B, L, 4096).
        timestep: (B,), in [0, 1].
        text_mask: (B, L), False where shorter captions are padded, behind their end; None: nowhere.
        grid_h: Rows of the image's tokens.
    """
    image, text = model.img_in(hidden_states), model.txt_in(context)
    length, tokens = text.shape[1], image.shape[1]
    is_image = pad(torch.ones(tokens, dtype=torch.bool, device=image.device), (length, 0))
    keys = None if text_mask is None else pad(text_mask.bool(), (0, tokens), value=True)
    times, rows = timestep, None
    if model.config.causal_condition:  # text is modulated as at time 0
        times, rows = torch.cat([timestep, timestep.new_zeros(1)]), is_image
    vector = model.time_text_embed(times, image)
    modulation = model.modulation(vector)
    hidden = torch.cat([text, image], dim=1)
    angles = rotations(model.pos_embed, length, (grid_h, tokens // grid_h), text_mask, image.device)
    for block in model.transformer_blocks:
        hidden = block(
            hidden,
            modulation,
            rotary_emb=angles,
            target_token_mask=rows,
            segments=[(0, length, True)],
            key_valid=keys,
        )
    return (model.proj_out(model.norm_out(hidden, vector, rows)),)


def rotations(
    rope: Any, length: int, grid: Sequence[int], text_mask: Tensor | None, device: torch.device
) -> Any:
    """Rotary angles of text and image: (L + T, D), or with a mask :class:`Rotations`.

    A token of text stands at its number on all three axes (frame, row, column); the image at the frame behind
    the text, its rows and columns around 0.
    """
    rope.freqs = tables = [table.to(device) for table in rope.freqs]
    height, width = grid
    rows, columns = (torch.arange(side, device=device) - (side - side // 2) for side in grid)
    numbers = torch.arange(length, device=device)
    text = torch.cat([table[numbers] for table in tables], dim=-1)
    frame = tables[0][length if text_mask is None else text_mask.sum(1)][..., None, :]  # (1, d) or (B, 1, d)
    spatial = torch.cat([tables[1][rows.repeat_interleave(width)], tables[2][columns.repeat(height)]], dim=-1)
    samples = frame.shape[:-2]
    image = [frame.expand(*samples, height * width, -1), spatial.expand(*samples, -1, -1)]
    angles = torch.cat([text.expand(*samples, -1, -1), torch.cat(image, dim=-1)], dim=-2)
    return angles if text_mask is None else Rotations(angles)
