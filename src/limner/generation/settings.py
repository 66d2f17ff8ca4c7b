"""How images are generated, checked before a base is loaded."""

import math
from dataclasses import dataclass

from limner.errors import BadUsage


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to paint. Sizes in pixels; what is None is the base's own."""

    steps: int = 20
    guidance: float | None = None
    seed: int = 0
    width: int | None = None
    height: int | None = None
    images_per_prompt: int = 1
    """Pictures of each prompt, from seeds one apart."""
    lora_scale: float = 1.0
    """Strength of the LoRA: 0 is the base."""

    def __post_init__(self) -> None:
        for name, minimum in (
            ("steps", 1),
            ("images_per_prompt", 1),
            ("seed", 0),
            ("width", 1),
            ("height", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise BadUsage(f"--{name.replace('_', '-')} is {value}; it must be at least {minimum}.")
        for name, value in (("guidance", self.guidance), ("lora-scale", self.lora_scale)):
            if value is not None and not math.isfinite(value):
                raise BadUsage(f"--{name} is {value}; it must be a number.")
