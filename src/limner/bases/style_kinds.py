"""The kinds of procedural styles: how drawings are bent, coloured, patterned, grounded and finished.

Numbers ``u`` are in [0, 1), colours ``c`` are (1, 3, 1, 1) in [0, 1]. Pictures are (B, 3, S, S), covers and
patterns (B or 1, 1, S, S), all in [0, 1].
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Numbers = Sequence[float]
Colours = Sequence[Tensor]

LUMA = (0.3, 0.59, 0.11)
CHANNEL_ORDERS = ((1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0))


def as_colour(rgb: Sequence[float]) -> Tensor:
    """(1, 3, 1, 1)."""
    return torch.tensor(rgb).view(1, 3, 1, 1)


def grey(rgb: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, 1, S, S)."""
    return (rgb * as_colour(LUMA)).sum(1, keepdim=True)


def blur(x: Tensor, side: int) -> Tensor:
    """A box filter of ``side`` pixels, odd."""
    return F.avg_pool2d(F.pad(x, (side // 2,) * 4, mode="replicate"), side, 1)


def grow(cover: Tensor, side: int) -> Tensor:
    """A cover, wider by half of ``side`` pixels."""
    return F.max_pool2d(cover, side, 1, side // 2)


def edge_lines(rgb: Tensor, alpha: Tensor) -> Tensor:
    """(B, 1, S, S): where colour or cover changes."""
    layers = torch.cat([rgb * alpha + 1 - alpha, alpha], 1)
    pad = F.pad(layers, (1, 1, 1, 1), mode="replicate")
    across = pad[..., 1:-1, 2:] - pad[..., 1:-1, :-2]
    down = pad[..., 2:, 1:-1] - pad[..., :-2, 1:-1]
    return ((across.square() + down.square()).amax(1, keepdim=True).sqrt() * 2 - 0.2).clamp(0, 1)


def ramp(side: int, angle: float, turns: float) -> Tensor:
    """(1, 1, S, S): a ramp across the picture, from -turns / 2 to turns / 2."""
    line = torch.linspace(-0.5, 0.5, side)
    return ((line[None, :] * math.cos(angle) + line[:, None] * math.sin(angle)) * turns)[None, None]


def pattern(kind: str, side: int, u: Numbers, noise: torch.Generator) -> Tensor:
    """(1, 1, S, S): stripes, checks, dots, weave, or noise in grains or patches."""
    angle, turns = u[0] * math.pi, 3 + 9 * u[1]
    across, down = ramp(side, angle, turns), ramp(side, angle + math.pi / 2, turns)
    if kind == "stripes":
        return (torch.sin(across * 2 * math.pi) * 3 + 0.5).clamp(0, 1)
    if kind == "checks":
        return ((torch.sin(across * math.pi * 2) * torch.sin(down * math.pi * 2)) * 4 + 0.5).clamp(0, 1)
    if kind == "dots":
        return ((torch.sin(across * math.pi * 2) + torch.sin(down * math.pi * 2) - 0.5) * 3).clamp(0, 1)
    if kind == "weave":
        return 0.5 + 0.25 * (torch.sin(across * 4 * math.pi) + torch.sin(down * 4 * math.pi))
    size = 64 if kind in ("grain", "noise") else 8
    grain = torch.rand(1, 1, size, size, generator=noise)
    return F.interpolate(grain, side, mode="bilinear", align_corners=False)


def _placed(x: Tensor, matrix: list[list[float]]) -> Tensor:
    grid = F.affine_grid(torch.tensor([matrix]).expand(len(x), -1, -1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _soft(x: Tensor, u: Numbers) -> Tensor:
    return blur(x, 3 + 2 * int(u[0] * 3))


def _pixels(x: Tensor, u: Numbers) -> Tensor:
    size = (8, 10, 13, 16, 21)[int(u[0] * 5)]
    return F.interpolate(F.adaptive_avg_pool2d(x, size), x.shape[-1], mode="nearest")


def _wavy(x: Tensor, u: Numbers) -> Tensor:
    line = torch.linspace(-1, 1, x.shape[-1])
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    bend = (0.04 + 0.08 * u[0]) * torch.sin((rows if u[2] < 0.5 else columns) * (5 + 12 * u[1]))
    grids = (columns + bend, rows) if u[2] < 0.5 else (columns, rows + bend)
    grid = torch.stack(grids, -1)
    return F.grid_sample(x, grid[None].expand(len(x), -1, -1, -1), align_corners=True)


def _slant(x: Tensor, u: Numbers) -> Tensor:
    shear = 0.6 * (u[0] - 0.5) + 0.2 * (1 if u[0] > 0.5 else -1)
    return _placed(x, [[1.15, shear, 0], [0, 1.15, 0]])


def _squeeze(x: Tensor, u: Numbers) -> Tensor:
    factor = 1.4 + 0.4 * u[0]
    wide, tall = (1.0, factor) if u[1] < 0.5 else (factor, 1.0)
    return _placed(x, [[wide, 0, 0], [0, tall, 0]])


def _tilt(x: Tensor, u: Numbers) -> Tensor:
    angle = (0.25 + 0.4 * u[0]) * (1 if u[1] < 0.5 else -1)
    cosine, sine = 1.15 * math.cos(angle), 1.15 * math.sin(angle)
    return _placed(x, [[cosine, -sine, 0], [sine, cosine, 0]])


def _weight(x: Tensor, u: Numbers, *, bold: bool) -> Tensor:
    """Dark parts grow or shrink."""
    dark = torch.cat([x[:, 3:] - x[:, :3], x[:, 3:]], 1)
    result = grow(dark, 3 + 2 * int(u[0] * 2)) if bold else -grow(-dark, 3)
    return torch.cat([(result[:, 3:] - result[:, :3]).clamp(min=0), result[:, 3:]], 1)


SHAPES: dict[str, Callable[[Tensor, Numbers], Tensor]] = {
    "blur": _soft,
    "pixelate": _pixels,
    "wave": _wavy,
    "slant": _slant,
    "squeeze": _squeeze,
    "tilt": _tilt,
    "bold": lambda x, u: _weight(x, u, bold=True),
    "thin": lambda x, u: _weight(x, u, bold=False),
}
"""Of (B, 4, S, S) drawings with premultiplied colours."""


def _hue(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    """A turn about the grey axis (Rodrigues)."""
    del c
    angle = (0.12 + 0.76 * u[0]) * 2 * math.pi
    third = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = torch.eye(3) * math.cos(angle) + third * (1 - math.cos(angle)) + cross * math.sin(angle)
    return torch.einsum("ij,bjhw->bihw", turn, rgb).clamp(0, 1)


def _saturation(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    del c
    tone = grey(rgb)
    return (tone + (rgb - tone) * (u[0] * 0.4 if u[1] < 0.5 else 1.8 + 1.5 * u[0])).clamp(0, 1)


def _curve(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    del c
    return (rgb.clamp(min=1e-3) ** (0.35 + 0.3 * u[0] if u[1] < 0.5 else 1.8 + 1.5 * u[0])).clamp(0, 1)


def _gradient(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    """Grey becomes a way from one colour to another, in some over a third."""
    tone = grey(rgb)
    if u[0] < 0.6:
        return c[0] * (1 - tone) + c[1] * tone
    return torch.where(tone < 0.5, torch.lerp(c[0], c[2], tone * 2), torch.lerp(c[2], c[1], tone * 2 - 1))


def _posterise(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    del c
    levels = 1 + int(u[0] * 3)
    return (rgb * levels).round() / levels


def _single(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    del u
    return (c[0] * (0.45 + 0.8 * grey(rgb))).clamp(0, 1)


def _palette(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    """The nearest of 3 to 5 colours, by grey or by distance."""
    table = torch.cat(list(c[: 3 + int(u[0] * 3)]))[:, :, 0, 0]
    if u[1] < 0.5:
        table = table[(table * torch.tensor(LUMA)).sum(1).argsort()]
        nearest = (grey(rgb) * len(table)).long().clamp(max=len(table) - 1)
    else:
        distances = (rgb[:, None] - table[None, :, :, None, None]).square().sum(2)
        nearest = distances.argmin(1, keepdim=True)
    return table[nearest[:, 0]].permute(0, 3, 1, 2)


def _threshold(rgb: Tensor, c: Colours, u: Numbers) -> Tensor:
    return torch.lerp(c[0], c[1], ((grey(rgb) - 0.35 - 0.3 * u[0]) * 12 + 0.5).clamp(0, 1))


COLOURINGS: dict[str, Callable[[Tensor, Colours, Numbers], Tensor]] = {
    "hue": _hue,
    "saturation": _saturation,
    "curve": _curve,
    "gradient": _gradient,
    "posterise": _posterise,
    "single": _single,
    "negative": lambda rgb, c, u: 1 - rgb,  # noqa: ARG005
    "palette": _palette,
    "flat": lambda rgb, c, u: c[0].expand_as(rgb),  # noqa: ARG005
    "threshold": _threshold,
    "wash": lambda rgb, c, u: torch.lerp(rgb, c[0].expand_as(rgb), 0.35 + 0.3 * u[0]),
}
"""Of the colours of drawings; ``mix`` (:func:`channel_mix`) has numbers of its own."""


def channel_mix(rgb: Tensor, mixture: Numbers, u: Numbers) -> Tensor:
    """Channels become sums of others, or trade places."""
    if u[0] < 0.5:
        matrix = (torch.tensor(mixture).view(3, 3).softmax(1) * 2.2).softmax(1)
    else:
        matrix = torch.eye(3)[torch.tensor(CHANNEL_ORDERS[int(u[1] * 5)])]
    return torch.einsum("ij,bjhw->bihw", matrix, rgb).clamp(0, 1)


def ground(kind: str, side: int, c: Colours, u: Numbers, noise: torch.Generator) -> Tensor:
    """(1, 3, S, S), of the colours ``c[3]`` and ``c[4]``."""
    if kind == "white":
        return torch.ones(1, 3, side, side)
    if kind == "gradient":
        return torch.lerp(c[3], c[4], (ramp(side, u[0] * 6.28, 1.0) + 0.5).clamp(0, 1))
    if kind == "radial":
        line = torch.linspace(-1, 1, side)
        far = ((line[None] ** 2 + line[:, None] ** 2).sqrt() / 1.3).clamp(0, 1)[None, None]
        return torch.lerp(c[3], c[4], far)
    if kind in ("stripes", "checks", "dots", "noise"):
        second = torch.lerp(c[3], c[4], 0.4 + 0.6 * u[2])
        return torch.lerp(c[3], second, pattern(kind, side, u, noise))
    plain = c[3].expand(1, 3, side, side).clone()
    if kind == "frame":
        width = 2 + int(u[0] * 4)
        frame = c[4].expand(1, 3, side, side).clone()
        frame[..., width:-width, width:-width] = plain[..., width:-width, width:-width]
        return frame
    return plain


def _vignette(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    del c
    line = torch.linspace(-1, 1, x.shape[-1])
    far = (line[None] ** 2 + line[:, None] ** 2)[None, None]
    return x * (1 - (0.35 + 0.35 * u[0]) * far.clamp(max=1.6))


def _fringe(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    del c
    step = 1 + int(u[0] * 3)
    return torch.cat([x[:, :1].roll(step, 3), x[:, 1:2], x[:, 2:].roll(-step, 3)], 1)


def _glow(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    lines = edge_lines(x, torch.ones_like(x[:, :1]))
    hue = torch.lerp(c[0], c[1], (ramp(x.shape[-1], u[0] * 6.28, 1.0) + 0.5).clamp(0, 1)).clamp(min=0.2)
    return (c[6] * 0.12 + hue / hue.amax(1, keepdim=True) * (lines + 0.8 * blur(lines, 7))).clamp(0, 1)


def _emboss(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    tone = grey(x)
    slope = tone - tone.roll((1 + int(u[0] * 2), 1), (2, 3))
    return (torch.lerp(c[6], as_colour((0.5, 0.5, 0.5)), 0.5) + slope * 1.5).clamp(0, 1)


def _halftone(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    turns, side = 12 + 6 * u[0], x.shape[-1]
    waves = [torch.sin(ramp(side, angle, turns) * 2 * math.pi) for angle in (0.8, 0.8 + math.pi / 2)]
    ink = ((1 - grey(x)) * 2.2 - 1.1 + waves[0] * waves[1] > 0).float()
    return torch.lerp(c[1] * 0.3 + 0.7, c[0] * 0.5, ink)


def _hatch(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    tone, turns, side = grey(x), 10 + 4 * u[0], x.shape[-1]
    lines = edge_lines(x, torch.ones_like(tone))
    first = (torch.sin(ramp(side, 0.8, turns) * 2 * math.pi) > 0.2).float() * (tone < 0.75)
    second = (torch.sin(ramp(side, 2.4, turns) * 2 * math.pi) > 0.2).float() * (tone < 0.45)
    return torch.lerp(c[1] * 0.25 + 0.75, c[0] * 0.4, torch.maximum(torch.maximum(first, second), lines))


def _solarise(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    del c
    return torch.where(x > 0.35 + 0.4 * u[0], 1 - x, x)


def _duotone(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    tone = grey(x) if u[0] < 0.5 else 1 - grey(x)
    return torch.lerp(c[0] * 0.6, c[1] * 0.6 + 0.4, tone ** (0.6 + u[1]))


def _scan_lines(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    rows = torch.arange(x.shape[-1]) % (2 + int(3 * u[0])) == 0
    return torch.lerp(x, (c[6] * 0.4).expand_as(x), rows.float()[:, None] * (0.4 + 0.5 * u[1]))


def _mosaic(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    size = 3 + int(3 * u[0])
    tiles = F.interpolate(F.avg_pool2d(x, size, ceil_mode=True), scale_factor=size)
    joints = (torch.arange(tiles.shape[-1]) % size == 0).float()
    image = torch.lerp(tiles, c[6].expand_as(tiles), torch.maximum(joints[:, None], joints) * 0.7)
    return image[..., : x.shape[-2], : x.shape[-1]]


def _steps(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    levels = 1 + int(2 * u[0])
    return torch.lerp((x * levels).round() / levels, c[6].expand_as(x), 0.35 * u[1])


def _glass(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    """Every block of pixels is read from a little beside it."""
    del c
    size = 8 + int(16 * u[0])
    shift = torch.randn(1, 2, size, size, generator=torch.Generator().manual_seed(int(u[1] * 2**31)))
    line = torch.linspace(-1, 1, x.shape[-1])
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([columns, rows], -1)[None] + 0.05 * F.interpolate(shift, x.shape[-2:]).movedim(1, -1)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode="border", align_corners=True)


def _speckle(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    """Grains of the picture's own colours, all of one tint or each of its own."""
    side, channels = x.shape[-1], 3 if u[1] < 0.5 else 1
    dice = torch.Generator().manual_seed(int(u[0] * 2**31))
    grain = torch.randn(1, channels, side, side, generator=dice) * (0.1 + 0.15 * u[1])
    return (x + grain * (0.5 + c[6])).clamp(0, 1)


def _ghost(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    return torch.lerp(x, x.roll((1 + int(4 * u[0]), 2 + int(4 * u[1])), (2, 3)) * c[6], 0.45)


def _sharp(x: Tensor, c: Colours, u: Numbers) -> Tensor:
    del c
    return (x + (1.5 + 2 * u[0]) * (x - blur(x, 5))).clamp(0, 1)


FINISHES: dict[str, Callable[[Tensor, Colours, Numbers], Tensor]] = {
    "vignette": _vignette,
    "tint": lambda x, c, u: torch.lerp(x, x * c[6] * 1.3, 0.7).clamp(0, 1),  # noqa: ARG005
    "fade": lambda x, c, u: torch.lerp(x, c[6].expand_as(x), 0.3 + 0.25 * u[0]),
    "contrast": lambda x, c, u: ((x - 0.5) * (1.8 + u[0]) + 0.5).clamp(0, 1),  # noqa: ARG005
    "soft": lambda x, c, u: torch.maximum(x, blur(x, 7) * (0.9 + 0.3 * u[0])).clamp(0, 1),  # noqa: ARG005
    "fringe": _fringe,
    "grey": lambda x, c, u: grey(x).expand_as(x),  # noqa: ARG005
    "glow": _glow,
    "emboss": _emboss,
    "halftone": _halftone,
    "hatch": _hatch,
    "solarise": _solarise,
    "duotone": _duotone,
    "scan lines": _scan_lines,
    "mosaic": _mosaic,
    "steps": _steps,
    "glass": _glass,
    "speckle": _speckle,
    "invert": lambda x, c, u: torch.lerp(1 - x, c[6].expand_as(x), 0.3 * u[0]),
    "hue turn": _hue,
    "ghost": _ghost,
    "sharp": _sharp,
}
"""Of whole pictures; ``glow``, ``emboss``, ``halftone`` and ``hatch`` are held out of training."""
