"""What the user asks for. Pure values: no torch, no file opened on import."""

from limner.recipe.schema import Data, Goal, Limits, Lora, Recipe, Sample, Track, Train

__all__ = ["Data", "Goal", "Limits", "Lora", "Recipe", "Sample", "Track", "Train"]
