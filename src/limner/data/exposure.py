"""Whether a picture is too dark, burnt out or without contrast. Paper and black velvet are none of these."""

import numpy as np

DARK = 60
"""Gray level that the brightest 0.5 % of a picture should pass: a night with one lamp does."""
FLAT = 36
"""Gray levels between the darkest and the brightest hundredth."""
BURNT = 0.12
"""Share of pixels at white beyond which a photograph has lost its lights ..."""
SHOULDER = 0.10
"""... if so many more lie just below: light fades into white, paper ends in an edge."""


def fault(rgb: np.ndarray) -> str:
    """``dark``, ``burnt``, ``flat``, or nothing.

    Args:
        rgb: (H, W, 3) uint8.
    """
    luma = rgb[::2, ::2] @ np.array([0.299, 0.587, 0.114], np.float32)
    low, high, bright = np.quantile(luma, (0.01, 0.99, 0.995))
    if bright < DARK:
        return "dark"
    if high - low < FLAT:
        return "flat"
    white = float((luma >= 253).mean())
    below = float(((luma >= 226) & (luma < 253)).mean())
    return "burnt" if white > BURNT and below > SHOULDER and _meets(luma) else ""


def _meets(luma: np.ndarray) -> bool:
    """Whether white is reached gradually along most of its outline, as light does and paper does not."""
    white = luma >= 253
    outline = np.zeros_like(white)
    across, down = white[:, 1:] != white[:, :-1], white[1:] != white[:-1]
    outline[:, 1:] |= across
    outline[:, :-1] |= across
    outline[1:] |= down
    outline[:-1] |= down
    beside = luma[outline & ~white]
    return beside.size > 0 and float((beside >= 215).mean()) > 0.5
