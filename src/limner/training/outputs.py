"""What a run leaves for others to use: one entry for each kind of what is trained."""

from pathlib import Path
from typing import Protocol

from limner.assembly.assemble import Assembled
from limner.assembly.resolve import Resolved
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.export import LoRAFile
from limner.training.export_model import ModelFolder
from limner.training.model import TrainableModel


class Output(Protocol):
    """A kind of file or folder that training ends in."""

    def require_possible(self, resolved: Resolved, meta: Assembled) -> None:
        """Find out before training whether it can be written.

        Args:
            resolved: The run.
            meta: Its models without weights.

        Raises:
            BadRecipe: It cannot.
        """
        ...

    def paths(self, run: RunDir) -> dict[str, Path | None]:
        """``lora``: the file, if it is one; ``model``: the base in diffusers layout, if it is that."""
        ...

    def complete(self, run: RunDir, recipe: Recipe) -> bool:
        """Whether all of it is there, of as many steps as the recipe asks for."""
        ...

    def write(self, model: TrainableModel, run: RunDir, reporter: Reporter) -> Path:
        """Write it, and read it back before it takes its place."""
        ...


OUTPUTS: dict[str, Output] = {"lora": LoRAFile(), "full": ModelFolder()}
"""``training.method`` -> what it ends in."""


def output_of(recipe: Recipe) -> Output:
    """What a recipe's run ends in."""
    return OUTPUTS[recipe.train.method]
