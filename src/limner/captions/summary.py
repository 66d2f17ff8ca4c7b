"""What the verb ``caption`` is told, and what it says that it has done."""

from dataclasses import dataclass, field
from pathlib import Path

from limner.errors import BadUsage


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """How captions are made.

    Raises:
        BadUsage: A number means nothing.
    """

    concurrency: int | None = None
    """Questions at once; None is the provider's own number."""
    max_image_size: int = 1024
    """Pixels of the longer side of the copy that is looked at."""
    overwrite: bool = False
    """Also images that have captions of ours."""
    consistency: bool = True
    """Whether the set pass follows."""
    budget: float | None = None
    """US dollars. The work is not begun when it is estimated to cost more, and ends when it has."""
    dry_run: bool = False
    """Only say what would be done, and its price."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("concurrency", self.concurrency, 1, 64),
            ("max-image-size", self.max_image_size, 64, 4096),
        ):
            if value is not None and not low <= value <= high:
                raise BadUsage(f"--{name} is {value}; it must be {low} to {high}.")
        if self.budget is not None and not self.budget > 0:
            raise BadUsage(f"--budget is {self.budget}; it must be more than 0 US dollars.")


@dataclass(kw_only=True)
class CaptionReport:
    """What was done. Numbers count images."""

    folder: Path
    images: int
    new_captions: int = 0
    recovered_captions: int = 0
    """Answered before the last run was killed, and put in place now."""
    existing_captions: int = 0
    by_hand: int = 0
    """With captions of a person: beside them or in a metadata file. Never touched."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """``file`` and ``reason`` of those without captions."""
    remaining: int = 0
    """Not asked about, because the budget was reached or nothing was to be sent."""
    revisions: int = 0
    """Edited or confirmed by the set pass."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """Words that the set pass settled: the one used -> those replaced."""
    findings: list[str] = field(default_factory=list)
    """What is still to be said of the captions as a set."""
    destination: str = ""
    """Where images went; empty: nowhere."""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    estimate: float | None = None
    cost: float | None = None
    """US dollars, by list price; None when unknown."""
    seconds: float = 0.0
