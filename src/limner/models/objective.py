"""What of a recipe changes what is learned. No torch: profiles are found by it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The wishes of a recipe that change what is learned. ``None`` leaves a choice to the family."""

    time_density: str | None = None
    time_shift: float | None = None
    guidance: float = 1.0
    prediction: str | None = None
    """What the denoiser says: "epsilon" or "v"."""
    min_snr: float = 0.0
    noise_offset: float = 0.0
    zero_terminal_snr: bool | None = None
