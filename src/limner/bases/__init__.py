"""The embedded base: how it was made, its weights, its licence notes."""

from pathlib import Path


def folders() -> dict[str, Path]:
    """Bases that come with the package: name -> folder in diffusers layout."""
    return {"glyph": Path(__file__).parent / "glyph"}


def predictors() -> dict[str, Path]:
    """Predictors that come with the package (``limner instant``): base -> folder."""
    paths = {base: folder.with_name(f"{base}-instant") for base, folder in folders().items()}
    return {base: path for base, path in paths.items() if path.is_dir()}
