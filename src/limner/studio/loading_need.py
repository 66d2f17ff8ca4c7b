"""What keeping a base loaded takes beside what the GPU has left, said before it is loaded."""

from dataclasses import dataclass
from typing import Any

from limner.errors import LimnerError
from limner.files import human
from limner.models.registry import named_base
from limner.run_folder import RunDir
from limner.studio import machine


@dataclass(frozen=True)
class LoadingNeed:
    """Bytes of GPU memory."""

    base: str
    weights: int
    """Of the base's files, all of whose models are loaded."""
    sampling: int
    """What is needed besides while it samples, by the plan of the run."""

    @property
    def total(self) -> int:
        """Of both."""
        return self.weights + self.sampling

    def warning(self, free: int) -> str:
        """What to say where so many bytes are free; empty where it fits."""
        if self.total <= free:
            return ""
        return (
            f"{self.base} takes about {human(self.total)} to keep loaded ({human(self.weights)} of weights, "
            f"{human(self.sampling)} while it samples, by the run's plan); the GPU has {human(free)} free. "
            "It will run out of memory: generate on a larger card, or stop what else uses this one."
        )


def need_of(run: RunDir) -> LoadingNeed | None:
    """What the base of a run takes; None where its plan or its size is not known."""
    try:
        plan: Any = run.read(run.plan_path)
        causes = plan["causes"]["sample"]
        base, sampling = str(plan["base"]), sum(int(causes[cause]) for cause in ("activations", "context"))
    except (LimnerError, LookupError, TypeError, ValueError):
        return None
    facts = named_base(base)
    if facts is None or not facts.weight_bytes:
        return None
    return LoadingNeed(base, facts.weight_bytes, sampling + int(causes.get("workspace", 0)))


def loading_warning(run: RunDir) -> str:
    """What to say before the base of a run is loaded here; empty where nothing stands against it."""
    need, gpus = need_of(run), machine.gpus()
    if need is None or not gpus:
        return ""
    return need.warning(max(gpu.total - gpu.used for gpu in gpus))
