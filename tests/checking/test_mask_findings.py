"""Masks in ``check``: over the images on the page, and what is wrong with them found."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.checking.check import check
from limner.checking.fix import write_fixed_copy
from limner.data.folder import read_folder
from limner.reporter import Reporter
from recipes import wish
from scenes import good, scene


def square(path: Path, *, inside: int = 255, outside: int = 0, half: int = 40) -> None:
    """A mask of 160 x 160 with a square in its middle."""
    pixels = np.full((160, 160), outside, np.uint8)
    pixels[80 - half : 80 + half, 80 - half : 80 + half] = inside
    Image.fromarray(pixels).save(path)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Of ten pictures: six masks in order, and a fault of each kind."""
    folder = good(tmp_path / "photos").parent / "masks"
    folder.mkdir()
    for number in range(6):
        square(folder / f"good{number}.png")
    square(folder / "good6.png", inside=0, outside=255)
    square(folder / "good7.png", inside=255, outside=255)
    square(folder / "good8.png", half=5)
    square(folder / "godo9.png")
    return folder


def test_faults_are_found_and_none_besides(tmp_path, masks):
    found = check(wish(tmp_path / "photos", masks=str(masks)), tmp_path / "out", Reporter())
    faults = {item.image: (item.level, item.reason) for item in found.findings if item.kind == "mask"}
    assert faults.keys() == {"good6.png", "good7.png", "good8.png", "good9.png", "godo9.png"}
    assert faults["good6.png"] == (
        "advice",
        "its mask is white around (100%) and black in the middle (0%)",
    )
    assert faults["good7.png"][0] == "note" and "changes nothing" in faults["good7.png"][1]
    assert faults["good8.png"] == ("advice", "its mask leaves 0.4% of the crop")
    assert "no mask" in faults["good9.png"][1] and "no image bears" in faults["godo9.png"][1]
    seen = {row["image"]: row["masked"] for row in json.loads(found.file.read_text())["seen"]}
    assert seen["good0.png"] == pytest.approx(0.75) and seen["good9.png"] is None


def test_the_page_tints_what_is_not_learned(tmp_path, masks):
    found = check(wish(tmp_path / "photos", masks=str(masks)), tmp_path / "out", Reporter())
    figure = next(part for part in found.page.read_text().split("<figure>") if "<b>good0.png" in part)
    plain, tinted = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int)
        for data in re.findall(r"base64,([^\"]+)", figure)
    )
    change = np.abs(tinted - plain).mean(2)
    assert change[56:72, 56:72].mean() < 5 and change[:24].mean() > 30
    assert "25% of it learned" in figure


def test_without_masks_nothing_is_said_of_them_and_where_there_are_none_it_is_a_problem(tmp_path):
    folder = good(tmp_path / "photos")
    silent = check(wish(folder), tmp_path / "a", Reporter())
    assert not [item for item in silent.findings if item.kind == "mask"]
    lacking = check(wish(folder, masks="alpha"), tmp_path / "b", Reporter())
    (finding,) = (item for item in lacking.findings if item.kind == "mask")
    assert (finding.image, finding.level) == ("", "problem") and "alpha channel" in finding.reason


def test_masks_that_leave_an_image_out_are_told_with_it(tmp_path, masks):
    square(masks / "good0.png", inside=0)
    Image.new("L", (160, 80), 255).save(masks / "good1.png")
    found = check(wish(tmp_path / "photos", masks=str(masks)), tmp_path / "out", Reporter())
    reasons = {item.image: item.reason for item in found.findings if item.kind == "left-out"}
    assert "all black" in reasons["good0.png"] and "another shape" in reasons["good1.png"]


def test_repaired_images_keep_their_masks_beside_them(tmp_path, masks):
    image = scene(50).convert("RGBA")
    image.putalpha(Image.open(masks / "good0.png"))
    image.save(tmp_path / "photos" / "cut.png")
    for place, name in ((str(masks), "good0"), ("alpha", "cut")):
        found = check(wish(tmp_path / "photos", masks=place), tmp_path / f"out-{name}", Reporter())
        write_fixed_copy(found, tmp_path / f"fixed-{name}", Reporter())
        folder = read_folder(tmp_path / f"fixed-{name}", masks="sidecar")
        (mask,) = (item.mask for item in folder.examples if item.path.stem == name)
        assert mask and np.array_equal(np.asarray(mask.image()), np.asarray(Image.open(masks / "good0.png")))
