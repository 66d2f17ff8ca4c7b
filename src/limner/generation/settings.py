"""How images are generated, checked before a base is loaded."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from limner.errors import BadUsage
from limner.lora.metadata import BRANCHES, SamplingHints


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
    lora_on: str | None = None
    """Branches of guidance that the LoRA is on: "both" or "positive". None: as it asks for, else both."""
    negative_lora: Path | None = None
    """A LoRA for the negative branch, in place of the other and at its strength."""

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
        if self.lora_on not in (None, *BRANCHES):
            raise BadUsage(f"--lora-on is {self.lora_on!r}; it must be {' or '.join(BRANCHES)}.")
        if self.lora_on == "both" and self.negative_lora:
            raise BadUsage(
                f"--lora-on is both and --negative-lora is {self.negative_lora}: the negative branch has the "
                "one LoRA or the other. Remove one of the two."
            )

    @property
    def splits_branches(self) -> bool:
        """Whether the branches of guidance differ in their LoRA."""
        return self.lora_on == "positive" or self.negative_lora is not None

    def require_no_lora(self, target: Path) -> None:
        """Raise ``BadUsage`` for what means nothing without a LoRA."""
        options = {
            f"--lora-scale is {self.lora_scale:g}": self.lora_scale != 1.0,
            f"--lora-on is {self.lora_on}": self.lora_on is not None,
            f"--negative-lora is {self.negative_lora}": self.negative_lora is not None,
        }
        for words, is_set in options.items():
            if is_set:
                raise BadUsage(f"{words}, and {target} has no LoRA: it is whole. Remove it.")

    def following(self, hints: SamplingHints, folder: Path) -> "Settings":
        """With what a LoRA in ``folder`` asks for, where the person has not decided otherwise."""
        is_decided = self.lora_on is not None or self.negative_lora is not None
        negative_lora = folder / hints.negative_lora if hints.negative_lora else None
        new = self if is_decided else replace(self, lora_on=hints.lora_on, negative_lora=negative_lora)
        if new.guidance is None and new.splits_branches == hints.splits_branches:
            return replace(new, guidance=hints.guidance)
        return new
