"""Which runs may have weights split over their processes, the denoiser's or a predictor's, and which not."""

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
    if train.method == "instant":
        return _of_heads(recipe)
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
    return _of_trained(recipe) if train.method == "full" else ("", "")


def _of_trained(recipe: "Recipe") -> tuple[str, str]:
    """What cannot be had where the trained weights themselves are split."""
    name = recipe.train.optimizer
    if not optimizer_of(name).in_parts:
        return f'train.optimizer "{name}"', "looks at whole weights"
    if recipe.limits.compute_dtype == "fp16":
        return 'limits.compute_dtype "fp16"', "scales the loss by what each process finds in its own part"
    return "", ""


def _of_heads(recipe: "Recipe") -> tuple[str, str]:
    """What cannot be had with a predictor's heads divided between processes, while the base stays whole."""
    if not recipe.instant.encoders:
        return "instant.encoders = []", "trains one LoRA for all pictures, with no heads to divide"
    return _of_trained(recipe)


def refuse_shard(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where split weights are asked for, and something that cannot be had with them."""
    key, reason = obstacle(recipe)
    if recipe.limits.shard != "on" or not key:
        return
    able = ", ".join(f'"{name}"' for name, optimizer in OPTIMIZERS.items() if optimizer.in_parts)
    way = f"Set train.optimizer = {able}" if key.startswith("train.optimizer") else "Change that"
    raise BadRecipe(f'limits.shard is "on", and {key} {reason}. {way}, or set limits.shard = "auto".')
