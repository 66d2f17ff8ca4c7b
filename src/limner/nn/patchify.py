"""Patches of latents as tokens of a transformer."""

import torch
from torch import Tensor


def patchify(latent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 4 C, h/2, w/2): each 2x2 patch becomes channels, the old channel outermost."""
    batch, channels, height, width = latent.shape
    patches = latent.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return patches.reshape(batch, channels * 4, height // 2, width // 2)


def unpatchify(latent: Tensor) -> Tensor:
    """(B, 4 C, h, w) -> (B, C, 2 h, 2 w): undoes :func:`patchify`."""
    batch, channels, height, width = latent.shape
    patches = latent.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return patches.reshape(batch, channels // 4, height * 2, width * 2)


def tokens(latent: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C), row by row."""
    return latent.flatten(2).transpose(1, 2)


def untokens(sequence: Tensor, height: int) -> Tensor:
    """(B, h w, C) -> (B, C, h, w): undoes :func:`tokens`."""
    return sequence.transpose(1, 2).unflatten(2, (height, -1))


def grid(height: int, width: int, device: torch.device) -> Tensor:
    """(height * width, 2): (row, column) of each token, row by row, in fp32."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.stack([rows, columns], dim=-1).float()
