"""How images are generated, checked before a base is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from limner.errors import BadUsage
from limner.lora.metadata import BRANCHES, SamplingHints
from limner.recipe.prompt_file import PromptLine


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to sample. Sizes in pixels; what is None is the base's own."""

    steps: int = 20
    guidance: float | None = None
    seed: int | Sequence[int] = 0
    """One or several."""
    width: int | None = None
    height: int | None = None
    images_per_prompt: int = 1
    """Pictures of each prompt, from seeds one apart."""
    negative_prompt: str = ""
    lora_scale: float | Sequence[float] = 1.0
    """Strength of the LoRA, or several: 0 is the base."""
    lora_on: str | None = None
    """Branches of guidance that the LoRA is on: "both" or "positive". None: as it asks for, else both."""
    controls: tuple[Path, ...] = ()
    """Control images of every prompt, for an edit model."""
    negative_lora: Path | None = None
    """A LoRA for the negative branch, in place of the other and at its strength."""

    def __post_init__(self) -> None:
        sides = [("width", self.width), ("height", self.height)]
        counts = [("steps", self.steps), ("images-per-prompt", self.images_per_prompt), *sides]
        for name, value in counts:
            if value is not None and value < 1:
                raise BadUsage(f"--{name} is {value}; it must be at least 1.")
        for seed in self.seeds:
            if not 0 <= seed < 2**63:
                raise BadUsage(f"--seed is {seed}; it must be at least 0 and below 2^63.")
        for name, value in (("guidance", self.guidance), *(("lora-scale", item) for item in self.strengths)):
            if value is not None and not math.isfinite(value):
                raise BadUsage(f"--{name} is {value}; it must be a number.")
        if self.images_per_prompt > 1 and not isinstance(self.seed, int):
            raise BadUsage(
                f"--seed names {len(self.seed)} seeds and --images-per-prompt is {self.images_per_prompt}. "
                "Give one of the two."
            )
        if self.lora_on not in (None, *BRANCHES):
            raise BadUsage(f"--lora-on is {self.lora_on!r}; it must be {' or '.join(BRANCHES)}.")
        if self.lora_on == "both" and self.negative_lora:
            raise BadUsage(
                f"--lora-on is both and --negative-lora is {self.negative_lora}: the negative branch has the "
                "one LoRA or the other. Remove one of the two."
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the pictures of each prompt."""
        if isinstance(self.seed, int):
            return tuple(range(self.seed, self.seed + self.images_per_prompt))
        return tuple(dict.fromkeys(self.seed))

    @property
    def strengths(self) -> tuple[float, ...]:
        """Of the LoRA, in the pictures of each prompt."""
        scale = self.lora_scale
        return tuple(dict.fromkeys((scale,) if isinstance(scale, int | float) else scale))

    @property
    def splits_branches(self) -> bool:
        """Whether the branches of guidance differ in their LoRA."""
        return self.lora_on == "positive" or self.negative_lora is not None

    def require_no_lora(self, target: Path) -> None:
        """Raise ``BadUsage`` for what means nothing without a LoRA."""
        options = {
            f"--lora-scale is {self.strengths[0]:g}": self.strengths != (1.0,),
            f"--lora-on is {self.lora_on}": self.lora_on is not None,
            f"--negative-lora is {self.negative_lora}": self.negative_lora is not None,
        }
        for words, is_set in options.items():
            if is_set:
                raise BadUsage(f"{words}, and {target} has no LoRA. Remove it.")

    def following(self, hints: SamplingHints, folder: Path) -> "Settings":
        """With what a LoRA in ``folder`` asks for, where the person has not decided otherwise."""
        is_decided = self.lora_on is not None or self.negative_lora is not None
        negative_lora = folder / hints.negative_lora if hints.negative_lora else None
        new = self if is_decided else replace(self, lora_on=hints.lora_on, negative_lora=negative_lora)
        if new.guidance is None and new.splits_branches == hints.splits_branches:
            return replace(new, guidance=hints.guidance)
        return new


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to generate with, and what."""

    targets: tuple[Path, ...]
    """A run folder or a LoRA file; or LoRA files of several steps of one run."""
    prompts: tuple[PromptLine, ...]
    out: Path
    """Folder for the pictures."""
    base: str | None = None
    """The base to load it on; None for the one that the run's recipe or the file names."""
    components_from: str = ""
    """The base that lends a base in one file what it lacks; "" for the one in the run's recipe."""
    sample_base: str = ""
    """Another base to sample on, with its few steps: "twin" or a name; "" for ``base``."""
    loras: Mapping[Path, float] = field(default_factory=dict)
    """Further LoRAs, runs or files, and their strengths."""
    embeddings: tuple[Path, ...] = ()
    """Files of textual inversions, or runs, whose words prompts may hold."""
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        if not self.prompts:
            raise BadUsage("There is no prompt. Give at least one with --prompt.")
        if self.out.is_file():
            raise BadUsage(f"{self.out} is a file. Name a folder for the pictures with --out.")
        if self.sample_base and self.base:
            raise BadUsage(f"--base is {self.base} and --on is {self.sample_base}: give one of the two.")
        for path, strength in self.loras.items():
            if not math.isfinite(strength):
                raise BadUsage(f"--lora {path} has the strength {strength}; it must be a number.")
            if path in self.targets:
                raise BadUsage(f"--lora {path} is there already. Set its strength with --lora-scale.")

    @property
    def is_grid(self) -> bool:
        """Whether the pictures of a prompt are compared along steps, strengths or seeds."""
        several_seeds = not isinstance(self.settings.seed, int) and len(self.settings.seeds) > 1
        return len(self.targets) > 1 or len(self.settings.strengths) > 1 or several_seeds
