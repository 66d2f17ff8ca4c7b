"""What the user asks for. Pure values: no torch, no file opened on import."""

from limner.recipe.schema import ConceptType, Data, Limits, Recipe, Sample, Track
from limner.recipe.train import Lora, Train

__all__ = ["Data", "ConceptType", "Limits", "Lora", "Recipe", "Sample", "Track", "Train"]
