"""Drawings with transparency become pictures: placed, recoloured, grounded, and given a look. Batched torch.

All functions take and give float tensors in [0, 1] on any device: drawings (B, 4, S, S) with straight alpha,
pictures (B, 3, S, S).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.bases.captions import COLOURS, GROUNDS, Appearance

NAVY = (0.07, 0.14, 0.42)
CHALK = (0.92, 0.96, 1.0)
BOARD = (0.09, 0.2, 0.15)


def render(drawings: Tensor, choices: Sequence[Appearance]) -> Tensor:
    """(B, 4, S, S) drawings -> (B, 3, S, S) pictures, one choice each."""
    solid_drawings = transform(drawings, choices)
    rgb, alpha = solid_drawings[:, :3], solid_drawings[:, 3:]
    hues = [COLOURS.get(choice.colour or "", -1.0) for choice in choices]
    rgb = recolour(rgb, torch.tensor(hues, device=rgb.device))
    ground = grounds(choices, rgb.shape[-1], rgb.device)
    out = rgb * alpha + ground * (1 - alpha)
    for look in {choice.look for choice in choices} - {"none"}:
        rows = torch.tensor([n for n, choice in enumerate(choices) if choice.look == look], device=rgb.device)
        tones = torch.tensor([COLOURS[choices[int(n)].tone] for n in rows.tolist()], device=rgb.device)
        out[rows] = dressed(look, rgb[rows], alpha[rows], ground[rows], tones)
    return out.clamp(0, 1)


def transform(drawings: Tensor, choices: Sequence[Appearance]) -> Tensor:
    """Scale, shift and flip; colours are premultiplied while they are resampled."""
    rows = []
    for choice in choices:
        wide, tall = (-1 if choice.flip else 1) / choice.scale, 1 / choice.scale
        x, y = choice.shift
        rows.append([[wide, 0.0, -wide * x], [0.0, tall, -tall * y]])
    grid = F.affine_grid(
        torch.tensor(rows, device=drawings.device), list(drawings.shape), align_corners=False
    )
    solid = torch.cat([drawings[:, :3] * drawings[:, 3:], drawings[:, 3:]], dim=1)
    resampled = F.grid_sample(solid, grid, mode="bilinear", align_corners=False)
    alpha = resampled[:, 3:]
    return torch.cat([resampled[:, :3] / alpha.clamp(min=1e-4), alpha], dim=1).clamp(0, 1)


def recolour(rgb: Tensor, hue: Tensor) -> Tensor:
    """Give each picture one hue, (B,) in [0, 1); negative leaves it. Light and shade stay."""
    value = rgb.amax(1, keepdim=True)
    chroma = value - rgb.amin(1, keepdim=True)
    saturation = (chroma / value.clamp(min=1e-4)).clamp(0.0, 1.0) * 0.75 + 0.2
    colour = hsv(hue.view(-1, 1, 1, 1).clamp(min=0), saturation, value * 0.9 + 0.08)
    return torch.where(hue.view(-1, 1, 1, 1) >= 0, colour, rgb)


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(B, 1, ...) hue, saturation, value -> (B, 3, ...) rgb."""
    shades = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue * 6) % 6
        shades.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.cat(torch.broadcast_tensors(*shades), dim=1)


def grounds(choices: Sequence[Appearance], side: int, device: torch.device) -> Tensor:
    """(B, 3, side, side), plain."""
    colours = torch.tensor([GROUNDS[choice.ground] for choice in choices], device=device).float() / 255
    return colours[:, :, None, None].expand(-1, -1, side, side)


def dressed(look: str, rgb: Tensor, alpha: Tensor, ground: Tensor, tones: Tensor) -> Tensor:
    """One look for a batch. ``tones`` (B,) are hues, for the look of that name."""
    on_white = rgb * alpha + (1 - alpha)
    if look == "sepia":
        return _between((0.24, 0.14, 0.06), (0.99, 0.93, 0.80), _grey(on_white))
    if look == "tones":
        grey = _grey(on_white)
        dark, light = (
            hsv(tones.view(-1, 1, 1, 1), torch.tensor(s), torch.tensor(v))
            for s, v in ((0.9, 0.25), (0.15, 1.0))
        )
        return dark * (1 - grey) + light * grey
    if look == "negative":
        return 1 - on_white
    if look == "silhouette":
        ink = torch.where(_grey(ground).mean((2, 3), keepdim=True) > 0.35, 0.08, 0.95)
        return ink * alpha + ground * (1 - alpha)
    lines = edges(rgb, alpha)
    if look == "outline":
        ink = torch.where(_grey(ground).mean((2, 3), keepdim=True) > 0.35, 0.06, 0.97)
        return ink * lines + ground * (1 - lines)
    if look == "neon":
        value = (rgb.amax(1, keepdim=True)).clamp(min=0.2)
        glow = F.avg_pool2d(lines, 7, 1, 3)
        bright = (rgb / value) * 0.85 + 0.15
        return torch.tensor([0.03, 0.02, 0.06], device=rgb.device).view(1, 3, 1, 1) + bright * (
            lines + 0.6 * glow
        ).clamp(0, 1)
    if look == "chalk":
        shade = 0.35 * (1 - _grey(on_white))
        return _between(BOARD, CHALK, torch.maximum(0.9 * lines, shade))
    if look == "blueprint":
        grey = _grey(on_white)
        return _between(CHALK, NAVY, grey) * (1 - 0.5 * lines) + 0.5 * lines * torch.tensor(
            CHALK, device=rgb.device
        ).view(1, 3, 1, 1)
    raise ValueError(look)


def edges(rgb: Tensor, alpha: Tensor) -> Tensor:
    """(B, 1, S, S) in [0, 1]: where colour or cover changes (Sobel)."""
    layers = torch.cat([rgb * alpha + (1 - alpha), alpha], dim=1)
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=rgb.device) / 4
    weight = torch.stack([kernel, kernel.T])[:, None].repeat(4, 1, 1, 1)
    soft = F.avg_pool2d(F.pad(layers, (1, 1, 1, 1), mode="replicate"), 3, 1)
    slope = F.conv2d(F.pad(soft, (1, 1, 1, 1), mode="replicate"), weight, groups=4)
    steep = slope.square().view(len(rgb), 4, 2, *rgb.shape[2:]).sum(2).amax(1, keepdim=True).sqrt()
    return ((steep - 0.08) * 5).clamp(0, 1)


def _grey(rgb: Tensor) -> Tensor:
    return (rgb * torch.tensor([0.3, 0.59, 0.11], device=rgb.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _between(dark: tuple[float, ...], light: tuple[float, ...], grey: Tensor) -> Tensor:
    low, high = (torch.tensor(choice, device=grey.device).view(1, 3, 1, 1) for choice in (dark, light))
    return low * (1 - grey) + high * grey
