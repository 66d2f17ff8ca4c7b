"""What is to be profiled. No torch, as most profiles are kept from before."""

from dataclasses import asdict, dataclass
from typing import Any

from limner.assembly.base import ResolvedBase, sample_settings
from limner.nn.memory.plan import Products
from limner.planning.counts import own_sizes
from limner.recipe.schema import Recipe


@dataclass(frozen=True)
class ProfileRequest:
    """A base, what is trained of it, and how a step is to be traced."""

    base: ResolvedBase
    size: tuple[int, int]
    """(width, height) of the bucket with the most tokens, pixels."""
    whole: bool = False
    """Whether every block is traced, though they repeat."""
    on_host: bool = False
    """Whether the trained weights are on the host."""
    matmul_precision: Products = "full"
    """How frozen layers multiply."""

    @property
    def facts(self) -> dict[str, Any]:
        """What of the recipe a profile depends on: its key, with the configs of the base."""
        recipe = self.base.recipe
        adapter = self.base.spec.adapter if recipe.train.adapter else None
        masked = self.base.objective.mask_floor is not None
        return {
            **({"adapter": adapter.sha256} if adapter else {}),
            **({} if recipe.sample.base == "own" else {"sample_base": sample_settings(recipe)}),
            **({"controls": self.base.controls} if self.base.controls else {}),
            **({"sampled": self.base.resolution} if len(self.base.sizes.resolutions) > 1 else {}),
            **({"inversion": _vectors(recipe)} if recipe.train.method == "inversion" else {}),
            **({"instant": _looks(recipe)} if recipe.train.method == "instant" else {}),
            **({"samples": sizes} if (sizes := own_sizes(recipe)) else {}),
            "size": self.size,
            "compute": self.base.compute,
            "kind": self.base.kind,
            "whole": self.whole,
            "method": recipe.train.method,
            "hosted": self.on_host,
            "products": self.matmul_precision,
            "lora": recipe.lora.model_dump(mode="json"),
            "objective": {**asdict(self.base.objective), "mask_floor": masked},
            "sample": [recipe.sample.width, recipe.sample.height, recipe.sample_guidance],
        }


def _looks(recipe: Recipe) -> dict[str, Any]:
    """What of a predictor decides its size, and what it looks at."""
    return recipe.instant.model_dump(mode="json", exclude={"group", "static_steps", "guidance"})


def _vectors(recipe: Recipe) -> list[Any]:
    """What of a textual inversion decides how much is trained, and where."""
    table = recipe.inversion
    return [table.tokens, table.encoders, table.with_lora]
