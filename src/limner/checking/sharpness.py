"""How blurred a picture is, in pixels, told from its sharpest edges. Neither contrast nor bokeh fools it."""

from typing import NamedTuple

import numpy as np

FINE, COARSE = 0.8, 2.4
"""Standard deviations in pixels of the two blurs whose gradients are compared."""
PIXEL = 1 / 3
"""Variance that central differences add."""
FAINTEST = 3.0
"""Gray levels per pixel at the coarse scale: weaker gradients are shading and noise, not edges."""
SHADING = 6.0
"""Gray levels per pixel: the shades of strong colours change as fast, as on a colour wheel. In a picture with
nothing stronger no direction tells of a smear, and it is as sharp as its sharpest direction."""
STRONG = 0.5
"""Of the strongest gradient: what counts as an edge."""
DIRECTIONS = 4
FAIR = 0.3
"""Of the strongest gradient: a direction of fainter edges says nothing. A smear makes edges faint."""
EDGE_PIXELS = 48
"""Fewer tell nothing."""
LARGEST = 400_000
"""Pixels; of a larger picture only the richest parts are looked at."""
PARTS, RICHEST = 4, 6
"""Parts per side, and how many of them."""
SOFTEST = 12.0
"""Pixels; larger blurs are not told apart."""
SOFT = 1.5
"""Pixels of blur from which it is asked whether there is an edge at all."""
WIDE, POOL = 8.0, 4
"""Standard deviation in pixels of a third blur, which is made of a picture this many times smaller."""
SHADE, SMALL = 1.28, 24
"""Times that the wide blur weakens a gradient: 1.32 and more in photos out of focus by up to 8 pixels, 1.25
and less in fades: skies, glows, ramps of 32 pixels and more. What it weakens less is a shade, no edge. In a
picture of few pixels a side a fade is short: ``SMALL / side`` more is asked there. At 64 pixels a colour
wheel has 1.59, and photos out of focus by 4 pixels 1.8 and more."""


class Sharpness(NamedTuple):
    """Standard deviations of the blur in pixels; None where there is no edge to tell it from."""

    blur: float | None
    """Of the sharpest edges of the picture."""
    smear: float | None
    """The same of the softest direction ..."""
    steady: float | None = None
    """... and of the sharpest: far below ``smear`` when the camera moved; out of focus, all are alike."""


def sharpness(gray: np.ndarray) -> Sharpness:
    """Compare the gradients of edges under a fine and a coarse blur (Zhuo and Sim 2011, section 2).

    The gradient of an edge of blur s, blurred by a, is proportional to 1 / sqrt(s^2 + a^2). The ratio of two
    such gradients gives s; the contrast cancels. The sharpest tenth of the edges speaks for the picture.
    40 ms of one core.

    Args:
        gray: (H, W), 0..255.
    """
    if min(gray.shape) < 16:
        return Sharpness(None, None)
    parts = [_compared(part) for part in _richest(gray)]
    fine, coarse = (np.concatenate([part[scale] for part in parts], axis=1) for scale in (0, 1))
    size = np.hypot(*coarse)
    strongest = float(np.quantile(size, 0.998))
    if strongest < FAINTEST:
        return Sharpness(None, None)
    edges = size >= max(FAINTEST, STRONG * strongest)
    ratio = np.hypot(*fine)[edges] / size[edges]
    if ratio.size < EDGE_PIXELS:
        return Sharpness(None, None)
    ways = _by_direction(fine, coarse, size, strongest)
    blur = min([_blur_of(ratio), *ways.values()]) if strongest < SHADING else _blur_of(ratio)
    if blur > SOFT and _is_shade(gray):
        return Sharpness(None, None)
    if strongest < SHADING or len(ways) < 2:
        return Sharpness(blur, None)
    softest = max(ways, key=ways.__getitem__)
    if ways[softest] > SOFT and _is_shade(gray, softest):
        return Sharpness(blur, None)
    return Sharpness(blur, ways[softest], min(ways.values()))


def _is_shade(gray: np.ndarray, direction: int | None = None) -> bool:
    """Whether the strongest gradients (of a direction) are a fade over many pixels, and no edges at all."""
    small, wide = (np.concatenate(part, axis=1) for part in zip(*map(_pooled, _richest(gray)), strict=True))
    if direction is not None:
        sector = _sector(small) == direction
        small, wide = small[:, sector], wide[:, sector]
    size = np.hypot(*small)
    if not size.size:  # it was in the finer picture alone
        return False
    strong = size >= STRONG * float(np.quantile(size, 0.998))
    ratio = float(np.quantile(size[strong] / np.maximum(np.hypot(*wide)[strong], 1e-3), 0.75))
    return ratio < SHADE + SMALL / min(gray.shape)


def _sector(gradient: np.ndarray) -> np.ndarray:
    """Which of the directions a gradient, (2, pixels), has: (pixels,)."""
    angle = np.arctan2(gradient[0], gradient[1]) % np.pi
    return np.round(angle * DIRECTIONS / np.pi).astype(np.int8) % DIRECTIONS


def _pooled(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of a part, made smaller, under the coarse and the wide blur: (2, pixels) each."""
    height, width = (length // POOL for length in gray.shape)
    values = _blurred(gray.astype(np.float32), COARSE)[: height * POOL, : width * POOL]
    small = values.reshape(height, POOL, width, POOL).mean(axis=(1, 3))
    rest = np.sqrt(WIDE**2 - COARSE**2 - (POOL**2 - 1) / 12) / POOL
    return _gradient(small).reshape(2, -1), _gradient(_blurred(small, rest)).reshape(2, -1)


def _richest(gray: np.ndarray) -> list[np.ndarray]:
    """The parts of a picture that change most; all of a small one."""
    if gray.size <= LARGEST:
        return [gray]
    rows, columns = (np.linspace(0, length, PARTS + 1).astype(int) for length in gray.shape)
    parts = [
        gray[rows[y] : rows[y + 1], columns[x] : columns[x + 1]] for y in range(PARTS) for x in range(PARTS)
    ]
    change = [np.abs(np.diff(part[::2].astype(np.int16), axis=1)).mean() for part in parts]
    return [parts[index] for index in np.argsort(change)[: -RICHEST - 1 : -1]]


def _compared(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of a part under the fine and the coarse blur: (2, pixels) each."""
    values = gray.astype(np.float32)
    fine, coarse = (_gradient(_blurred(values, sigma)).reshape(2, -1) for sigma in (FINE, COARSE))
    return fine, coarse


def _by_direction(
    fine: np.ndarray, coarse: np.ndarray, size: np.ndarray, strongest: float
) -> dict[int, float]:
    """The blur of the sharpest edges of each direction that has fair ones."""
    sector = _sector(coarse)
    strength = np.hypot(*fine)
    blurs: dict[int, float] = {}
    for direction in range(DIRECTIONS):
        in_sector = sector == direction
        if not in_sector.any():
            continue
        peak = float(np.quantile(size[in_sector], 0.998))
        edges = in_sector & (size >= max(FAINTEST, STRONG * peak))
        if peak >= FAIR * strongest and np.count_nonzero(edges) >= EDGE_PIXELS:
            blurs[direction] = _blur_of(strength[edges] / size[edges])
    return blurs


def _blur_of(ratio: np.ndarray) -> float:
    squared = max(float(np.quantile(ratio, 0.9)) ** 2, 1.0 + 1e-6)
    fine, coarse = FINE**2 + PIXEL, COARSE**2 + PIXEL
    return float(np.sqrt(np.clip((coarse - squared * fine) / (squared - 1), 0, SOFTEST**2)))


def _gradient(values: np.ndarray) -> np.ndarray:
    """(2, H - 2, W - 2): down, across."""
    down = (values[2:, 1:-1] - values[:-2, 1:-1]) / 2
    return np.stack([down, (values[1:-1, 2:] - values[1:-1, :-2]) / 2])


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian; the borders repeat."""
    radius = round(3 * sigma)
    kernel = np.exp(-(np.arange(radius + 1, dtype=np.float32) ** 2) / (2 * sigma**2))
    kernel /= kernel[0] + 2 * kernel[1:].sum()
    for axis in (0, 1):
        padding = [(radius, radius) if axis == other_axis else (0, 0) for other_axis in (0, 1)]
        padded = np.pad(values, padding, mode="edge")
        length = values.shape[axis]
        part = [
            padded[offset : offset + length] if axis == 0 else padded[:, offset : offset + length]
            for offset in range(2 * radius + 1)
        ]
        total = part[radius] * kernel[0]
        for distance in range(1, radius + 1):
            total += (part[radius - distance] + part[radius + distance]) * kernel[distance]
        values = total
    return values
