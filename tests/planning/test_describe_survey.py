from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from limner.models.registry import registered_bases
from limner.planning import local_device
from limner.planning.cards import known
from limner.planning.describe_survey import better_base, survey_lines
from limner.planning.devices import of_card
from limner.planning.local_device import LocalGpu
from limner.planning.survey import BaseEstimate, Survey
from limner.recipe.schema import Recipe
from limner.recipe.toml import change

GB = 2**30


def described(*estimates, images_unknown=False):
    device = of_card(known("RTX 3060"))
    return survey_lines(Survey(device, 7, images_unknown, estimates), Path("cats"))


def test_a_base_that_does_not_fit_says_what_it_needs_and_nothing_else():
    big = BaseEstimate(
        base=registered_bases()["qwen-image"], choice=None, total=None, missing_bytes=57_000_000_000, card=8
    )
    rows = described(big, replace(big, base=registered_bases()["sdxl"], missing_bytes=0, card=None))
    assert rows[0] == "Bases on a 12 GB RTX 3060, 7 images:"
    assert rows[3].split("  ")[0] == "qwen-image"
    assert "needs 8 GB" in rows[3] and "57.0 GB" in rows[3]
    assert rows[4].split()[:3] == ["sdxl", "no", "here"]
    assert any("No open base trains here" in row for row in rows)


def test_each_base_that_cannot_do_it_says_its_own_reason():
    refused = [
        BaseEstimate(base=registered_bases()[name], choice=None, total=None, missing_bytes=0, refusal=text)
        for name, text in (("flux-dev", "No gamma."), ("sdxl", "No word."), ("chroma1-hd", "No gamma."))
    ]
    lines = [line for line in described(*refused) if line.startswith("Not for")]
    assert lines == [
        "Not for this recipe: flux-dev, chroma1-hd. No gamma.",
        "Not for this recipe: sdxl. No word.",
    ]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, size in {"a": (400, 300), "b": (300, 256), "c": (20, 20)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    return tmp_path


def recipe(folder, **changes):
    wishes = {key.replace("__", "."): value for key, value in changes.items()}
    return change(Recipe(), {"base": "glyph", "data.images": folder, **wishes})


def test_photographs_on_the_toy_are_told_a_base_for_this_card(photographs, monkeypatch):
    monkeypatch.setattr(local_device, "gpu", lambda: LocalGpu("NVIDIA GeForce RTX 4070", 12 * GB, 11 * GB))
    monkeypatch.setattr(local_device, "_ram", lambda: (32 * GB, 30 * GB))
    line = better_base(recipe(photographs))
    assert line is not None
    assert line.startswith(
        "glyph is a toy, and your images are photographs by their size (300 x 256). "
        "On your 12 GB card (NVIDIA GeForce RTX 4070): --base chroma1-hd (about "
    )
    assert line.endswith("27.5 GB to fetch).")


def test_without_a_gpu_they_are_told_where_to_read_what_others_need(photographs, monkeypatch):
    monkeypatch.setattr(local_device, "gpu", lambda: None)
    line = better_base(recipe(photographs))
    assert line == (
        "glyph is a toy, and your images are photographs by their size (300 x 256). "
        f"What other bases need: limner plan {photographs}"
    )


def test_small_pictures_another_base_and_no_images_are_no_matter(photographs, tmp_path):
    assert better_base(recipe(photographs, base="sdxl")) is None
    Image.new("RGB", (300, 255)).save(photographs / "b.png")
    assert better_base(recipe(photographs)) is None
    assert better_base(recipe(tmp_path / "none")) is None
