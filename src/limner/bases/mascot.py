"""The project's own mascot: a plump teal creature with one curly antenna, a striped scarf and orange feet.

It is drawn in code, so that a subject that no emoji set holds can be shown in as many poses as are wanted:
ten of them are the pictures of the demo, thousands train the recogniser that judges the demo.
"""

import io
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIDE = 128
ARMS = {"down": (24.0, 99.0), "out": (15.0, 78.0), "wave": (15.0, 56.0), "up": (23.0, 37.0)}
"""Where the left hand is, in the pixels of the 128 x 128 drawing; the right hand mirrors it."""
MOUTHS = ("smile", "open", "grin", "small")
PROPS = ("flower", "cup", "flag", "star", "book")

TEAL, DEEP, PALE = "#1fa9a0", "#0b5a5c", "#8fe0d0"
ORANGE, CREAM, RUST = "#ff8a1f", "#fff3d6", "#8a3d0c"
INK = "#12263a"


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How the mascot stands."""

    left: str = "down"
    """The arm at the left of the picture, one of ``ARMS``."""
    right: str = "down"
    """The arm at the right of the picture, one of ``ARMS``; it is the one that holds."""
    lean: float = 0.0
    """Degrees clockwise about the feet, -12..12."""
    jump: bool = False
    look: tuple[float, float] = (0.0, 0.0)
    """Of the pupils, each in -1..1: to the right, downwards."""
    asleep: bool = False
    """Eyes closed."""
    mouth: str = "smile"
    """One of ``MOUTHS``."""
    sway: float = 0.0
    """Degrees that the antenna bends clockwise, -25..15."""
    prop: str | None = None
    """One of ``PROPS``, in the right hand."""


def pose(seed: int) -> Pose:
    """A pose, as a pure function of ``seed``."""
    draw = random.Random(seed)
    prop = draw.choice(PROPS) if draw.random() < 0.4 else None
    return Pose(
        left=draw.choice(list(ARMS)),
        right=draw.choice(("out", "wave") if prop else list(ARMS)),
        lean=round(draw.uniform(-12, 12), 1) if draw.random() < 0.5 else 0.0,
        jump=draw.random() < 0.25,
        look=(round(draw.uniform(-1, 1), 2), round(draw.uniform(-1, 1), 2)),
        asleep=draw.random() < 0.15,
        mouth=draw.choice(MOUTHS),
        sway=round(draw.uniform(-25, 15), 1),
        prop=prop,
    )


def svg(pose: Pose) -> str:
    """The drawing as an SVG document of 128 x 128 with a transparent ground."""
    parts = [
        _feet(jump=pose.jump),
        _arm(pose.left, "left"),
        _arm(pose.right, "right"),
        _antenna(pose.sway),
        _body(),
        _eyes(pose),
        _mouth(pose.mouth),
        _scarf(),
        _prop_in_hand(pose.prop, pose.right),
    ]
    rise = -7 if pose.jump else 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" height="{SIDE}">'
        f'<g transform="translate(0 {rise}) rotate({pose.lean:.1f} 64 112) '
        'translate(5.12 8.96) scale(0.92)" stroke-linecap="round" '
        f'stroke-linejoin="round">{"".join(parts)}</g></svg>'
    )


def drawings(count: int, seed: int = 0) -> "np.ndarray":
    """Mascots in ``count`` poses, the poses of ``seed``, ``seed + 1`` and so on.

    Returns:
        (count, 128, 128, 4) uint8, straight alpha; what cannot be seen is zero.
    """
    import numpy as np

    images = np.zeros((count, SIDE, SIDE, 4), np.uint8)
    for row in range(count):
        images[row] = drawn(pose(seed + row))
    return images


def drawn(pose: Pose) -> "np.ndarray":
    """(128, 128, 4) uint8, straight alpha: one pose, drawn. Needs the extra ``base`` (resvg-py)."""
    import numpy as np
    import resvg_py
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg(pose), width=SIDE, height=SIDE))
    pixels = np.array(Image.open(io.BytesIO(png)).convert("RGBA"))
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def _path(line: str, stroke: str, width: float, attributes: str = "") -> str:
    return f'<path d="{line}" fill="none" stroke="{stroke}" stroke-width="{width}" {attributes}/>'


def _disc(x: float, y: float, size: tuple[float, float], fill: str, attributes: str = "") -> str:
    return f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{size[0]}" ry="{size[1]}" fill="{fill}" {attributes}/>'


def _feet(*, jump: bool) -> str:
    edge = f'stroke="{RUST}" stroke-width="2.5"'
    if jump:
        legs = _path("M50 104 L42 115 M78 104 L86 115", DEEP, 6)
        return legs + "".join(
            _disc(x, 117, (10, 6.5), ORANGE, f'{edge} transform="rotate({turn} {x} 117)"')
            for x, turn in ((39, 35), (89, -35))
        )
    return _disc(48, 112, (13, 7), ORANGE, edge) + _disc(80, 112, (13, 7), ORANGE, edge)


def _arm(arm: str, side: str) -> str:
    x, y = ARMS[arm]
    shoulder, bend = 38, (26.0, (y + 84) / 2 + 6)
    line = f"M{shoulder} 80 Q{bend[0]} {bend[1]:.1f} {x} {y}"
    strokes = _path(line, DEEP, 12) + _disc(x, y, (7.5, 7.5), DEEP) + _path(line, TEAL, 7.5)
    strokes += _disc(x, y, (5.5, 5.5), PALE)
    return strokes if side == "left" else f'<g transform="translate(128 0) scale(-1 1)">{strokes}</g>'


def _antenna(sway: float) -> str:
    curl = "M63 38 C59 26 60 10 74 8 C87 6 91 22 80 25"
    tip = _disc(78, 24, (7, 7), ORANGE, f'stroke="{RUST}" stroke-width="2"')
    stalk = _path(curl, DEEP, 7.5) + _path(curl, TEAL, 3.5)
    return f'<g transform="rotate({sway:.1f} 64 38)">{stalk}{tip}</g>'


def _body() -> str:
    shape = "M64 31 C84 31 92 46 97 70 C102 97 88 111 64 111 C40 111 26 97 31 70 C36 46 44 31 64 31 Z"
    return (
        f'<path d="{shape}" fill="{TEAL}" stroke="{DEEP}" stroke-width="3"/>'
        + _disc(64, 99, (20, 9.5), PALE)
        + _disc(47, 39, (7, 3.5), PALE, 'transform="rotate(-38 47 39)"')
    )


def _eyes(pose: Pose) -> str:
    eyes = []
    for x in (51, 77):
        if pose.asleep:
            eyes.append(_path(f"M{x - 9} 53 Q{x} 63 {x + 9} 53", INK, 3.5))
            continue
        centre = (x + 3.5 * pose.look[0], 54 + 4 * pose.look[1])
        eyes.append(_disc(x, 54, (10.5, 12), "#ffffff", f'stroke="{DEEP}" stroke-width="2"'))
        eyes.append(_disc(*centre, (5.8, 6.8), INK))
        eyes.append(_disc(centre[0] - 2, centre[1] - 2.5, (2, 2), "#ffffff"))
    cheeks = _disc(40, 67, (4.5, 3), "#ff9d8a") + _disc(88, 67, (4.5, 3), "#ff9d8a")
    return "".join(eyes) + cheeks


def _mouth(mouth: str) -> str:
    return {
        "smile": _path("M57 67 Q64 74 71 67", INK, 3),
        "open": f'<path d="M56 66 H72 Q71 76 64 76 Q57 76 56 66 Z" fill="#7a1f35" stroke="{INK}" '
        'stroke-width="2"/>',
        "grin": f'<path d="M55 66 Q64 69 73 66 Q70 74 64 74 Q58 74 55 66 Z" fill="#ffffff" stroke="{INK}" '
        'stroke-width="2"/>',
        "small": _disc(64, 69, (3, 3.5), "#7a1f35", f'stroke="{INK}" stroke-width="1.5"'),
    }[mouth]


def _scarf() -> str:
    stripes = 'stroke-linecap="butt" stroke-dasharray="8 8"'
    strokes = ""
    for line in ("M84 84 Q91 94 86 106", "M33 77 Q64 95 95 77"):
        strokes += _path(line, RUST, 15) + _path(line, CREAM, 11) + _path(line, ORANGE, 11, stripes)
    return strokes


def _prop_in_hand(prop: str | None, arm: str) -> str:
    if prop is None:
        return ""
    x, y = ARMS[arm]
    things = {"flower": _flower, "cup": _cup, "flag": _flag, "star": _star, "book": _book}
    return (
        f'<g transform="translate({SIDE - x:.1f} {y:.1f})">{things[prop]()}{_disc(-3, 2, (5, 5), PALE)}</g>'
    )


def _flower() -> str:
    petals = "".join(
        _disc(0, -27, (5, 6.5), "#f0559b", f'transform="rotate({turn} 0 -20)"') for turn in range(0, 360, 60)
    )
    return _path("M0 8 Q3 -6 0 -20", "#2f8f3a", 3.5) + petals + _disc(0, -20, (5, 5), "#ffd93b")


def _cup() -> str:
    edge = 'stroke="#7d2230" stroke-width="2"'
    return (
        _path("M8 -10 Q15 -8 8 0", "#7d2230", 3)
        + f'<path d="M-11 -17 H9 L7 5 H-9 Z" fill="#e0454f" {edge}/>'
        + _disc(-1, -17, (10, 3), "#fff3d6", edge)
    )


def _flag() -> str:
    return _path("M0 12 V-34", "#6b4a2b", 3.5) + (
        '<path d="M0 -34 Q-10 -39 -14 -33 Q-20 -29 -25 -34 V-18 Q-19 -13 -14 -17 Q-9 -22 0 -18 Z" '
        'fill="#d7263d" stroke="#7d1424" stroke-width="2"/>'
    )


def _star() -> str:
    return (
        '<path d="M0 -31 L4.4 -21 L15 -20 L7 -13 L9.4 -2 L0 -8 L-9.4 -2 L-7 -13 L-15 -20 L-4.4 -21 Z" '
        'fill="#ffd93b" stroke="#b97a00" stroke-width="2"/>'
    )


def _book() -> str:
    edge = 'stroke="#1d2a6b" stroke-width="2"'
    return (
        f'<path d="M-15 -16 H13 V8 H-15 Z" fill="#3d55c9" {edge}/>'
        '<path d="M-12 -18 Q-6 -21 -1 -17 Q4 -21 10 -18 V4 Q4 1 -1 5 Q-6 1 -12 4 Z" fill="#ffffff"/>'
        + _path("M-1 -16 V4", "#1d2a6b", 1.5)
    )
