"""The embedded base: how it was made, its weights, its licence notes."""

from pathlib import Path


def folders() -> dict[str, Path]:
    """Bases that come with the package: name -> folder in diffusers layout."""
    return {"glyph": Path(__file__).parent / "glyph"}
