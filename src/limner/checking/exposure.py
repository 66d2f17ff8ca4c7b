"""Whether a picture is too dark, burnt out or without contrast. Paper and black velvet are none of these."""

import numpy as np

DARK = 60
"""Gray level that the brightest 0.5 % of a picture should pass: a night with one lamp does."""
FLAT = 36
"""Gray levels between the darkest and the brightest hundredth."""
CLIPPED_SHARE = 0.12
"""Share of what is lit at white beyond which a photograph has lost its lights ..."""
SHOULDER = 0.10
"""... if so much more lies just below: light fades into white, paper ends in an edge."""

LIT = 40
"""Gray level from which a pixel is more than the dark around the subject."""
PALE = 128
"""Level of the darkest channel from which another at 255 is lost light: below, it is a vivid colour."""
FADED_SHARE = 0.12
"""Share of what is lit and not white that has lost a channel so. In order: 0.05 at most ..."""
MIN_SHARE = 0.012
"""... if it is so much of the picture: lamps at night are less."""


def fault(rgb: np.ndarray) -> str:
    """``dark``, ``burnt``, ``flat``, or nothing.

    Args:
        rgb: (H, W, 3) uint8.
    """
    part = rgb[::2, ::2]
    luma = part @ np.array([0.299, 0.587, 0.114], np.float32)
    low, high, bright = np.quantile(luma, (0.01, 0.99, 0.995))
    if bright < DARK:
        return "dark"
    if high - low < FLAT:
        return "flat"
    lit = np.count_nonzero(luma >= LIT)  # the dark around a subject says nothing of its lights
    white = np.count_nonzero(luma >= 253)
    below = np.count_nonzero((luma >= 226) & (luma < 253))
    is_clipped = (
        white > max(CLIPPED_SHARE * lit, MIN_SHARE * luma.size) and below > SHOULDER * lit and _meets(luma)
    )
    return "burnt" if is_clipped or _faded(part, luma) else ""


def _faded(rgb: np.ndarray, luma: np.ndarray) -> bool:
    """Whether pale colours have a channel at its end while the others still vary: white comes next."""
    top, low = rgb.max(axis=2), rgb.min(axis=2)
    clipped_channel = (top >= 254) & (low >= PALE) & (low < 250)
    clipped_channel[:, 0] = False
    step = np.abs(np.diff(low.astype(np.int16), axis=1))
    clipped_channel[:, 1:] &= (step > 0) & (step < LIT)  # a plain colour of an illustration does not vary
    rest = np.count_nonzero((luma >= LIT) & (low < 253))
    return bool(clipped_channel.mean() > MIN_SHARE and np.count_nonzero(clipped_channel) > FADED_SHARE * rest)


def _meets(luma: np.ndarray) -> bool:
    """Whether white is reached gradually along most of its outline, as light does and paper does not."""
    white = luma >= 253
    outline = np.zeros_like(white)
    edge_x, edge_y = white[:, 1:] != white[:, :-1], white[1:] != white[:-1]
    outline[:, 1:] |= edge_x
    outline[:, :-1] |= edge_x
    outline[1:] |= edge_y
    outline[:-1] |= edge_y
    neighbours = luma[outline & ~white]
    return neighbours.size > 0 and float((neighbours >= 215).mean()) > 0.5
