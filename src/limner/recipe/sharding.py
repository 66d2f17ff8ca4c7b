"""Which runs may have the denoiser's weights split over their processes, and why others may not."""

from typing import TYPE_CHECKING

from limner.errors import BadRecipe
from limner.recipe.optimizers import OPTIMIZERS, optimizer_of

if TYPE_CHECKING:
    from limner.recipe.schema import Recipe


def obstacle(recipe: "Recipe") -> tuple[str, str]:
    """What of a recipe cannot be had with split weights, and why; two empty texts where all can.

    All processes gather each block together, so each must run the denoiser as often as the others.
    """
    train = recipe.train
    if train.method not in ("lora", "full"):
        return f'train.method "{train.method}"', "is trained with the whole model in each process"
    if train.objective != "denoise":
        return (
            f'train.objective "{train.objective}"',
            "runs the denoiser more often in some processes than others",
        )
    if recipe.prior.taught:
        return f'prior.kind "{recipe.prior.kind}"', "runs the denoiser once more for some micro-batches alone"
    if recipe.sample.base != "own":
        return f'sample.base "{recipe.sample.base}"', "puts another base in the place of the split one"
    if recipe.limits.matmul_precision == "8bit":
        return 'limits.matmul_precision "8bit"', "reads weights in codes, which are not split"
    if train.method == "full" and not optimizer_of(train.optimizer).in_parts:
        return f'train.optimizer "{train.optimizer}"', "looks at whole weights"
    if train.method == "full" and recipe.limits.compute_dtype == "fp16":
        return 'limits.compute_dtype "fp16"', "scales the loss by what each process finds in its own part"
    return "", ""


def refuse_shard(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where split weights are asked for, and something that cannot be had with them."""
    key, reason = obstacle(recipe)
    if recipe.limits.shard != "on" or not key:
        return
    able = ", ".join(f'"{name}"' for name, optimizer in OPTIMIZERS.items() if optimizer.in_parts)
    way = f"Set train.optimizer = {able}" if key.startswith("train.optimizer") else "Change that"
    raise BadRecipe(f'limits.shard is "on", and {key} {reason}. {way}, or set limits.shard = "auto".')
