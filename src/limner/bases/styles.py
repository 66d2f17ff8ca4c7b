"""Styles drawn by program: a style is a pure function of its seed, and restyles drawings with transparency.

``draw(seed)`` picks one kind at each of seven stages, with its numbers and colours; ``render`` applies them.
The kinds in ``HELD_OUT_KINDS`` are never drawn unless asked for by name: they measure how far a model
generalises beyond the kinds that it saw.
"""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.bases.style_kinds import (
    COLOURINGS,
    FINISHES,
    SHAPES,
    as_colour,
    channel_mix,
    edge_lines,
    ground,
    grow,
    pattern,
)

HANDS = ("noto", "blob", "fluent", "twemoji")
"""Of the art: those that the base knows, in the order in which styles draw them."""
WEIGHTS = {
    "colour": {"keep": 3, "hue": 3, "saturation": 2, "curve": 2, "gradient": 7, "posterise": 2, "single": 3}
    | {"mix": 3, "negative": 3, "palette": 4, "flat": 2, "threshold": 4, "wash": 2},
    "shape": {"keep": 9, "blur": 2, "pixelate": 2, "wave": 2, "slant": 1, "squeeze": 1, "bold": 1}
    | {"thin": 1, "tilt": 1},
    "lines": {"none": 7, "rim": 3, "edges": 3, "sticker": 2, "lines only": 3, "double rim": 1},
    "shadow": {"none": 6, "drop": 2, "long": 1},
    "texture": {"none": 7, "stripes": 2, "checks": 1, "dots": 1, "grain": 2, "weave": 1, "patches": 1},
    "ground": {"white": 5, "plain": 6, "gradient": 2, "radial": 1, "stripes": 1, "checks": 1, "dots": 1}
    | {"frame": 1, "noise": 1},
    "finish": {"none": 8, "vignette": 1, "tint": 1, "fade": 1, "contrast": 1, "soft": 1, "fringe": 1}
    | {"grey": 1},
}
"""Stage -> kind -> how often. Few drawings keep their colours: recolouring is what a predictor finds hard."""
HELD_OUT_KINDS = ("glow", "emboss", "halftone", "hatch")
WIDER_FINISHES = (
    *("solarise", "duotone", "scan lines", "mosaic", "steps", "glass", "speckle", "invert", "hue turn"),
    *("ghost", "sharp"),
)
"""Only :func:`widened` draws them. Most recolour the whole picture, as most kinds that a person brings do.
None draws edges, dots or hatching: those are the held-out kinds' own."""
PLAIN = {"colour": "keep", "shape": "keep", "lines": "none", "shadow": "none", "texture": "none"} | {
    "ground": "white",
    "finish": "none",
}
"""One style in 25: a predictor must also say that there is nothing to change."""
INK, WHITE = (0.05, 0.05, 0.07), (1.0, 1.0, 1.0)

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Style:
    """Kinds by stage, what they are told, and the hands that its drawings come from."""

    kinds: dict[str, str]
    colours: tuple[Rgb, ...]
    """Eight."""
    numbers: tuple[float, ...]
    """24, in [0, 1)."""
    mixture: tuple[float, ...]
    """9, of normal distribution."""
    hands: tuple[str, ...]
    """One of ``HANDS``, or all."""
    seed: int


def draw(seed: int, held_out: str = "") -> Style:
    """The style of a seed; ``held_out`` adds one of ``HELD_OUT_KINDS``, as the finish."""
    dice = random.Random(f"style {seed}")
    kinds = {
        stage: dice.choices(list(weights), list(weights.values()))[0] for stage, weights in WEIGHTS.items()
    }
    if dice.random() < 0.04:
        kinds = dict(PLAIN)
    if held_out:
        kinds |= {"finish": held_out, "texture": "none"}
    hands = (dice.choice(HANDS),) if dice.random() < 0.5 else HANDS
    colours = [_colour(dice) for _ in range(8)]
    if dice.random() < 0.12:  # black and white, either way round
        dark, light = 0.1 * dice.random(), 1 - 0.1 * dice.random()
        colours[:2] = [(dark, dark, dark), (light, light, light)][:: dice.choice((1, -1))]
    numbers = tuple(dice.random() for _ in range(24))
    mixture = tuple(dice.gauss(0, 1) for _ in range(9))
    return Style(kinds, tuple(colours), numbers, mixture, hands, seed)


def widened(style: Style, share: float) -> Style:
    """The style, or in ``share`` of the seeds the same with one of ``WIDER_FINISHES``."""
    dice = random.Random(f"wider {style.seed}")
    if dice.random() >= share:
        return style
    return replace(style, kinds=style.kinds | {"finish": dice.choice(WIDER_FINISHES)})


def _colour(dice: random.Random) -> Rgb:
    """Saturated and dark or light more often than not (HSV to RGB)."""
    hue, saturation = dice.random(), dice.random() ** 0.6
    value = dice.choice((dice.random(), 1 - dice.random() ** 2))
    red, green, blue = (
        value - value * saturation * max(0.0, min((n + hue * 6) % 6, 4 - (n + hue * 6) % 6, 1))
        for n in (5, 3, 1)
    )
    return red, green, blue


@torch.no_grad()
def render(style: Style, drawings: Tensor) -> Tensor:
    """(B, 4, S, S) drawings, straight alpha in [0, 1] -> (B, 3, S, S) pictures; the seed places them."""
    c, u, kinds = [as_colour(rgb) for rgb in style.colours], style.numbers, style.kinds
    noise = torch.Generator().manual_seed(style.seed * 7919)
    solid = _placed(style.seed, drawings)
    if kinds["shape"] != "keep":
        solid = SHAPES[kinds["shape"]](solid, u[0:3])
    alpha = solid[:, 3:].clamp(0, 1)
    rgb = (solid[:, :3] / alpha.clamp(min=1e-3)).clamp(0, 1)
    lines = edge_lines(rgb, alpha)
    rgb = _textured(style, _coloured(style, rgb), c, noise)
    back = ground(kinds["ground"], drawings.shape[-1], c, u[11:14], noise).expand_as(rgb)
    if kinds["shadow"] != "none":
        back = _shadowed(style, back, alpha, c)
    image = _outlined(style, back, rgb, alpha, lines, c)
    if kinds["finish"] != "none":
        image = FINISHES[kinds["finish"]](image, c, u[22:24])
    return image.clamp(0, 1)


def _placed(seed: int, drawings: Tensor) -> Tensor:
    """Scaled, shifted and flipped a little; colours premultiplied."""
    dice = random.Random(f"place {seed} 0")
    moves = []
    for _ in range(len(drawings)):
        scale, flip = dice.uniform(0.85, 1.0), -1 if dice.random() < 0.3 else 1
        slack = 1 - scale
        across, down = dice.uniform(-slack, slack), dice.uniform(-slack, slack)
        moves.append([[flip / scale, 0, across], [0, 1 / scale, down]])
    solid = torch.cat([drawings[:, :3] * drawings[:, 3:], drawings[:, 3:]], 1)
    grid = F.affine_grid(torch.tensor(moves), list(solid.shape), align_corners=False)
    return F.grid_sample(solid, grid, align_corners=False)


def _coloured(style: Style, rgb: Tensor) -> Tensor:
    kind, u = style.kinds["colour"], style.numbers[3:5]
    if kind == "keep":
        return rgb
    if kind == "mix":
        return channel_mix(rgb, style.mixture, u)
    return COLOURINGS[kind](rgb, [as_colour(colour) for colour in style.colours], u)


def _textured(style: Style, rgb: Tensor, c: list[Tensor], noise: torch.Generator) -> Tensor:
    kind, u = style.kinds["texture"], style.numbers
    if kind == "none":
        return rgb
    cover = pattern(kind, rgb.shape[-1], u[6:9], noise)
    over = (c[5] if u[9] < 0.5 else rgb * 0.4).expand_as(rgb)
    return torch.lerp(rgb, over, cover * (0.3 + 0.5 * u[10]))


def _shadowed(style: Style, back: Tensor, alpha: Tensor, c: list[Tensor]) -> Tensor:
    u = style.numbers
    steps = (3,) if style.kinds["shadow"] == "drop" else range(1, 9)
    across, down = (1 if u[14] < 0.5 else -1), (1 if u[15] < 0.7 else -1)
    shadow = torch.stack([alpha.roll((n * down, n * across), (2, 3)) for n in steps]).amax(0)
    return torch.lerp(back, (c[7] * 0.5).expand_as(back), shadow * (0.4 + 0.5 * u[16]))


def _outlined(
    style: Style, back: Tensor, rgb: Tensor, alpha: Tensor, lines: Tensor, c: list[Tensor]
) -> Tensor:
    """The drawing on its ground, with the lines of its kind below and above it."""
    kind, u = style.kinds["lines"], style.numbers
    ink = (c[2] if u[17] < 0.4 else as_colour(INK) if u[17] < 0.7 else as_colour(WHITE)).expand_as(back)
    width = 3 + 2 * int(u[18] * 2)
    if kind in ("sticker", "double rim"):
        back = torch.lerp(back, ink, grow(alpha, width + 4))
    if kind == "double rim":
        back = torch.lerp(back, c[1].expand_as(back), grow(alpha, width))
    if kind == "lines only":
        shade = rgb if u[19] < 0.35 else ink
        return torch.lerp(back, shade, grow(lines, 1 + 2 * int(u[20] * 2)))
    image = torch.lerp(back, rgb, alpha)
    if kind == "rim":
        return torch.lerp(image, ink, (grow(alpha, width) - -grow(-alpha, 3)).clamp(0, 1))
    if kind == "edges":
        return torch.lerp(image, ink, lines * (0.5 + 0.5 * u[21]))
    return image
