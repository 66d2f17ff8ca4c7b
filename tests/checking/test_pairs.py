"""Pairs of target and control image that cannot be meant are found by their looks, and no others."""

from pathlib import Path

import pytest
from PIL import Image

from limner.checking.check import check
from limner.checking.pairs import measure_control
from limner.data.control import ControlImage
from limner.data.images import BadImage
from limner.recipe.schema import Recipe
from limner.reporter import Reporter
from recipes import wish
from scenes import good, scene

COUNT = 10


def night(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value // 3)


def paired(folder: Path, *, strange: bool = False) -> tuple[Path, Path]:
    """Ten targets, and what they were before their light was changed, or pictures of other things."""
    after, before = good(folder / "after", COUNT), folder / "before"
    before.mkdir()
    for number in range(COUNT):
        (scene(50 + number) if strange else night(scene(number))).save(before / f"good{number}.png")
    return after, before


def recipe(after: Path, before: Path) -> Recipe:
    return wish(after, control=(before,))


def found(after: Path, before: Path, out: Path) -> set[tuple[str, str, str]]:
    done = check(recipe(after, before), out, Reporter())
    return {(item.image, item.level, item.kind) for item in done.findings if "pair" in item.kind}


def test_pairs_in_order_are_shown_and_nothing_is_said(tmp_path):
    after, before = paired(tmp_path)
    assert found(after, before, tmp_path / "out") == set()
    page = (tmp_path / "out" / "check.html").read_text()
    assert page.count("control image 1 of good") == COUNT and str(tmp_path) not in page


def test_pairs_that_are_identical_swapped_or_unrelated_are_found(tmp_path):
    after, before = paired(tmp_path)
    with Image.open(after / "good0.png") as image:
        image.convert("RGB").save(before / "good0.jpg", quality=95, subsampling=0)
    (before / "good0.png").unlink()
    (before / "good1.png").rename(before / "kept.png")
    (before / "good2.png").rename(before / "good1.png")
    (before / "kept.png").rename(before / "good2.png")
    scene(75).save(before / "good3.png")
    (before / "good4.png").write_bytes((after / "good4.png").read_bytes())
    assert found(after, before, tmp_path / "out") == {
        ("good0.png", "advice", "identical-pair"),
        ("good4.png", "problem", "identical-pair"),
        ("good1.png", "problem", "swapped-pair"),
        ("good2.png", "problem", "swapped-pair"),
        ("good3.png", "advice", "unrelated-pair"),
    }


def test_where_pairs_are_not_known_by_their_looks_it_is_said_once(tmp_path):
    after, before = paired(tmp_path, strange=True)
    assert found(after, before, tmp_path / "out") == {("", "note", "pairs")}


def test_a_control_that_is_gone_is_told(tmp_path):
    with pytest.raises(BadImage, match="gone"):
        measure_control(ControlImage(tmp_path / "gone.png", "0" * 64, 10, 10))
