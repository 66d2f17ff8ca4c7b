"""What happens while a verb works, as records. Loads no torch.

``limner.train_iter`` yields them, ``on_event`` of the other functions is called with them, the command line
prints them, and its ``--events`` writes each as a line of JSON.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Message:
    """A fact in one line, such as what was reused."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ProgressMade:
    """How far counted work has come. Bars may be nested: a label is open until ``ended``."""

    label: str
    done: int
    total: int
    note: str = ""
    """The figure to show beside, such as "loss 0.31"."""
    seconds: float = 0.0
    """Since this work began."""
    start: int = 0
    """How much was done before this work began, as in a run that goes on; ``done`` counts it."""
    ended: bool = False
    """Nothing more follows of it: finished, or broken off where ``done`` is less than ``total``."""

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before the first piece."""
        count = self.done - self.start
        return self.seconds * (self.total - self.done) / count if count > 0 else None


@dataclass(frozen=True, kw_only=True)
class PlanMade:
    """How the run will be computed. It is in ``plan.json`` of the run folder in full."""

    bytes: int
    """Planned peak of the device's memory."""
    seconds_per_step: float
    seconds: float
    """Of the whole run, caching and samples included."""
    plan: Mapping[str, Any]
    """Precision of the weights, checkpointed and swapped blocks, micro-batch, and so on."""


@dataclass(frozen=True, kw_only=True)
class PlanLowered:
    """Memory ran out: the run goes on by a smaller plan, with the same batch and the same random draws."""

    step: int | None
    """Steps finished before; None while the run was being set up."""
    changes: str
    """For people: "checkpointed 0 -> 12"."""


@dataclass(frozen=True, kw_only=True)
class CacheFilled:
    """Latents and text embeddings are there. In figures of all processes."""

    computed: int
    reused: int
    bytes: int
    """Written now."""
    seconds: float
    entries: int
    """That this run reads."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One optimizer step. Loss and norm are those before the weights moved."""

    step: int
    """Steps finished, so the first one is 1."""
    steps: int
    """Of the whole run."""
    loss: float
    norm: float
    """Length of the gradient before clipping."""
    learning_rate: float
    seconds: float
    bytes: int
    """Most memory that was held so far."""


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The validation loss after a step; step 0 is the base."""

    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Sample images after a step, one for each prompt; step 0 shows the base."""

    step: int
    paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint, from where the run can go on."""

    step: int
    path: Path
    lora: Path | None
    """The LoRA after this step; None where a whole base is trained, and in all processes but the first."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """The run is complete."""

    path: Path
    """The run folder."""
    lora: Path | None
    """The file of the LoRA; None where the whole denoiser was trained."""
    model: Path | None
    """The trained base, in diffusers layout, where it was."""
    embedding: Path | None = None
    """The file of a textual inversion, where token vectors were trained."""
    report: Path
    steps: int
    seconds: float
    """Of this call: a run that went on took longer."""
    loss: float
    """Mean over the last 20 steps; NaN where no step was logged."""
    validation_loss: float | None


Event = (
    Message
    | ProgressMade
    | PlanMade
    | PlanLowered
    | CacheFilled
    | StepDone
    | Validated
    | Sampled
    | Saved
    | Done
)
OnEvent = Callable[[Event], None]
KINDS: tuple[type[Event], ...] = Event.__args__
"""All of them."""


def name_of(event: Event | type[Event]) -> str:
    """How JSON calls it: ``name_of(StepDone) == "step_done"``."""
    kind = event if isinstance(event, type) else type(event)
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def to_json(event: Event) -> dict[str, Any]:
    """An event as JSON knows it: ``{"event": "saved", "step": 50, "path": "runs/cat/checkpoints/.."}``."""
    return {"event": name_of(event), **plain(event)}


def plain(value: Any) -> Any:
    """A value as JSON knows it: ``plain(Path("a")) == "a"``, ``plain(math.nan) is None``."""
    match value:
        case Path():
            return str(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value
