"""Small runs for tests: a recipe on the tiny base, a listener, and what a run left."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from limner.recipe.prompt_file import PromptLine
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training import checkpoint


def wish(base: Path, photos: Path, **sections: Any) -> Recipe:
    """Four steps of two images, one held out, no samples; each section given is laid over that."""
    plain: dict[str, Any] = {
        "data": {"images": str(photos), "validation_count": 1},
        "lora": {"rank": 2},
        "train": {"steps": 4, "batch": 2, "learning_rate": 1e-2, "save_every": 2},
        "sample": {"every": -1, "steps": 2},
    }
    for name, value in sections.items():
        plain[name] = {**plain.get(name, {}), **value} if isinstance(value, dict) else value
    return Recipe(base=str(base), **plain)


class Told(Reporter):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.counts: dict[str, list[int]] = {}

    def line(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def progress(self, label: str, total: int, start: int = 0):  # noqa: ARG002
        count = self.counts.setdefault(label, [0, total])
        count[1] = total

        class Bar:
            def advance(self, n: int = 1, note: str = "") -> None:
                count[0] += n

        yield Bar()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def generated(target: Path, out: Path, *prompts: str, told: Told | None = None, **more: Any) -> list[Path]:
    """What ``limner generate`` writes; ``more`` are fields of the request."""
    from limner.generation.generate import generate
    from limner.generation.settings import GenerationRequest

    lines = tuple(PromptLine(prompt) for prompt in prompts)
    return generate(
        GenerationRequest(**{"targets": (target,), "prompts": lines, "out": out, **more}), told or Told()
    )


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """What the checkpoint of a step holds, by model and parameter."""
    parts, _ = checkpoint.load(RunDir(run).checkpoint_path(step))
    return {f"{model}.{n}": value for model, state in parts["weights"].items() for n, value in state.items()}


def losses(run: Path) -> list[tuple[int, float | None, float | None]]:
    """(step, loss, validation loss) of every row of the metrics."""
    return [(row["step"], row.get("loss"), row.get("held_out")) for row in RunDir(run).metrics()]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether the same names hold the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
