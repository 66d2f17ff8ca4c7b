from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faces import face
from limner.data import subject
from limner.data.folder import Example
from limner.data.subject import Crop, choose_crop, crops, follows, found_faces, installed, slack
from limner.data.views import Scale, buckets, centre, views
from limner.errors import BadRecipe
from messages import raises

SCALES = (Scale(buckets(64, multiple=16)),)
WALL = (120, 140, 150)


def example(path: Path, width: int, height: int, region=None) -> Example:
    return Example(path, path.name, width, height, ("a",), region=region)


def pasted(path: Path, size: tuple[int, int], faces) -> Path:
    picture = Image.new("RGB", size, WALL)
    for left, top, side in faces:
        drawn = face(side)
        picture.paste(drawn, (left, top), drawn)
    picture.save(path)
    return path


def test_the_extra_is_there():
    assert installed() and follows("auto") and follows("subject") and not follows("centre")


def test_what_is_asked_for_and_not_there_is_told(monkeypatch):
    monkeypatch.setattr(subject, "installed", lambda: False)
    assert not follows("auto")
    with raises(BadRecipe):
        follows("subject")


@pytest.fixture
def looked_for_anew() -> Iterator[None]:
    """What is installed is looked for once in a process."""
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.mark.usefixtures("looked_for_anew")
@pytest.mark.parametrize("lack", ["class", "files"])
def test_opencv_5_has_no_cascades_and_so_is_told_as_missing(lack, monkeypatch, tmp_path):
    """Its wheels have no ``CascadeClassifier``; those of opencv-contrib have it, and no files for it."""
    if lack == "class":
        monkeypatch.delattr("cv2.CascadeClassifier")
    else:
        monkeypatch.setattr("cv2.data.haarcascades", str(tmp_path))
    assert not installed() and not follows("auto")
    with pytest.raises(BadRecipe, match="needs opencv-python-headless 4"):
        follows("subject")


@pytest.mark.parametrize("side", [60, 130])
def test_faces_are_found_where_they_are(side):
    picture = Image.new("RGB", (384, 256), WALL)
    picture.paste(face(side), (200, 40), face(side))
    ((left, top, right, bottom),) = found_faces(picture)
    assert abs((left + right) / 2 - (200 + side / 2)) < side / 6
    assert abs((top + bottom) / 2 - (40 + side / 2)) < side / 6
    assert 0.5 * side < right - left < 1.1 * side
    assert found_faces(Image.new("RGB", (384, 256), WALL)) == ()


def test_a_crop_holds_the_face_that_the_middle_would_cut(tmp_path):
    path = pasted(tmp_path / "a.png", (1200, 300), [(30, 60, 180)])
    one = example(path, 1200, 300)
    found = choose_crop(one, (96, 48))
    middle = centre(one, (96, 48))
    assert middle[0] > 120
    assert found.reason == "faces" and len(found.faces) == 1
    assert found.crop[0] <= found.faces[0][0] and found.crop[2] >= found.faces[0][2]
    assert (found.crop[2] - found.crop[0], found.crop[3]) == (middle[2] - middle[0], 300)
    assert choose_crop(one, (96, 48)) == found
    assert choose_crop(one, (96, 48), follow=False) == Crop(middle, "centre")


def test_a_face_that_the_middle_holds_moves_nothing(tmp_path):
    path = pasted(tmp_path / "a.png", (1200, 300), [(510, 60, 180)])
    found = choose_crop(example(path, 1200, 300), (96, 48))
    assert found.reason == "faces" and found.crop == (300, 0, 900, 300)


def test_of_faces_that_do_not_fit_the_largest_is_held():
    crop = subject._holding((0, 0, 1000, 100), (450, 0, 550, 100), [(0, 20, 60, 80), (900, 10, 990, 100)])
    assert crop == (890, 0, 990, 100)
    both = subject._holding((0, 0, 1000, 100), (450, 0, 550, 100), [(10, 0, 60, 50), (50, 0, 90, 40)])
    assert both[0] <= 10 and both[2] >= 90
    assert subject._holding((0, 0, 90, 900), (0, 400, 90, 490), [(0, 0, 90, 200)]) == (0, 55, 90, 145)


def test_without_faces_what_stands_out_is_kept(tmp_path):
    draw = np.random.default_rng(0)
    picture = Image.new("RGB", (1200, 300), WALL)
    patch = draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)
    picture.paste(Image.fromarray(patch).resize((200, 200)), (980, 50))
    picture.save(tmp_path / "a.png")
    found = choose_crop(example(tmp_path / "a.png", 1200, 300), (96, 48))
    assert found.reason == "saliency" and found.crop[0] <= 980 and found.crop[2] >= 1180


def test_a_given_part_is_followed_within(tmp_path):
    path = pasted(tmp_path / "a.png", (1200, 300), [(30, 60, 180), (900, 60, 180)])
    one = example(path, 1200, 300, region=(600, 0, 1200, 300))
    assert choose_crop(one, (96, 48)) == Crop((600, 0, 1200, 300), "given")
    found = choose_crop(one, (64, 64))
    assert found.crop[0] >= 600 and found.crop[0] <= found.faces[0][0] and found.crop[2] >= found.faces[0][2]


def test_only_images_that_lose_something_are_opened(tmp_path):
    missing = example(tmp_path / "none.png", 640, 640)
    path = pasted(tmp_path / "a.png", (1200, 300), [(30, 60, 180)])
    long = example(path, 1200, 300)
    assert slack(missing, (64, 64)) == 0
    found = crops([missing, long], SCALES)
    ((only, size),) = found
    assert only == long
    (view,) = views([long], scales=SCALES, flip=False, dropout=False, crops=found)
    assert size == view.size and view.crop == found[long, size] != centre(long, view.size)
