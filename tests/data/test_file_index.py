"""What is known of image files from an earlier start, and when it is not believed."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.data import file_index, listing, near_duplicates
from limner.data.file_index import FileIndex, image_sizes
from limner.data.folder import read_folder
from limner.data.images import inspect
from limner.data.near_duplicates import hold_out, near_training
from limner.errors import BadData
from limner.files import user_cache


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures, of which the last is nearly the fifth, in a folder that is worth an index."""
    monkeypatch.setattr(file_index, "MIN_IMAGES", 6)
    monkeypatch.setattr(file_index, "SETTLE_SECONDS", 0.0)
    folder = tmp_path / "photos"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(5):
        blocks = draws.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((96, 64 + number), Image.Resampling.BICUBIC).save(
            folder / f"{number}.png"
        )
    Image.open(folder / "4.png").point(lambda level: min(255, level + 3)).save(folder / "5.png")
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are read, in order."""
    names: list[str] = []

    def counting(function):
        def call(path, *args, **options):
            names.append(path.name)
            return function(path, *args, **options)

        return call

    for module, name in ((file_index, "inspect"), (file_index, "header"), (near_duplicates, "read_image")):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    return names


def test_a_second_start_reads_no_image(photos, opened):
    first = read_folder(photos)
    held = hold_out(first.examples, 2, first.index)
    near_training(first.examples[:3], first.examples[3:], first.index)
    assert len(opened) >= 12
    assert held == hold_out(first.examples, 2)
    opened.clear()
    second = read_folder(photos)
    assert second.examples == first.examples
    assert hold_out(second.examples, 2, second.index) == held
    assert image_sizes(photos) == [(96, 64), (96, 65), (96, 66), (96, 67), (96, 68), (96, 68)]
    assert set(opened) <= {"4.png", "5.png"}  # whose bits are alike


def test_what_is_altered_is_read_again_though_its_size_and_time_are_as_they_were(photos, opened):
    read_folder(photos)
    path, other = photos / "2.png", photos / "3.png"
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(photos / "new.png")
    opened.clear()
    folder = read_folder(photos)
    assert sorted(opened) == ["2.png", "new.png"]
    assert [rejection.path.name for rejection in folder.rejected] == ["2.png"]
    assert "damaged" in folder.rejected[0].reason


def test_a_file_that_has_just_been_written_is_not_believed(photos, opened, monkeypatch):
    monkeypatch.setattr(file_index, "SETTLE_SECONDS", 1e6)
    read_folder(photos)
    opened.clear()
    read_folder(photos)
    assert len(opened) == 6


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": 99, "files": {}}',
        b'{"format": 1, "files": {"0.png": [1]}}',
        b'{"format": 1, "files": {"0.png": ["1", 2, 3, "x", 5, 6, null]}}',
    ],
)
def test_a_damaged_index_is_no_index(photos, opened, content):
    read_folder(photos)
    (file,) = user_cache("images").glob("*.json")
    file.write_bytes(content)
    opened.clear()
    assert len(read_folder(photos).examples) == 6
    assert len(opened) == 6
    opened.clear()
    read_folder(photos)
    assert not opened


def test_sizes_are_asked_for_once_as_long_as_no_folder_changes(photos, monkeypatch):
    monkeypatch.setattr(listing, "SETTLE_SECONDS", -60)  # the folder has just been made
    sizes, calls, true = image_sizes(photos), [], file_index.listed
    monkeypatch.setattr(file_index, "listed", lambda *names, **more: calls.append(1) or true(*names, **more))
    assert image_sizes(photos) == image_sizes(photos) == sizes and not calls
    image_sizes(photos).clear()
    (photos / "0.png").unlink()
    assert image_sizes(photos) == sizes[1:] and calls


def test_whoever_reads_images_after_their_sizes_were_asked_has_the_index_and_sees_what_changed(
    photos, opened, monkeypatch
):
    monkeypatch.setattr(listing, "SETTLE_SECONDS", -60)
    read_folder(photos)
    image_sizes(photos)
    read, true = [], file_index._read
    monkeypatch.setattr(file_index, "_read", lambda path: read.append(path) or true(path))
    (photos / "3.png").write_bytes((photos / "2.png").read_bytes())
    opened.clear()
    heights = [example.height for example in read_folder(photos).examples]
    assert heights == [64, 65, 66, 66, 68, 68] and opened == ["3.png"] and not read
    read_folder(photos)
    assert read, "it is for one reader"


def test_few_images_leave_nothing_in_the_cache(photos, monkeypatch):
    monkeypatch.setattr(file_index, "MIN_IMAGES", 7)
    folder = read_folder(photos)
    hold_out(folder.examples, 2, folder.index)
    assert not user_cache("images").exists()


def test_files_that_are_gone_are_forgotten(photos):
    read_folder(photos)
    (photos / "0.png").unlink()
    index = FileIndex(photos, keep=True)
    index.save(["1.png"])
    again = FileIndex(photos, keep=True)
    assert set(again._rows) == {"1.png"}


def test_an_index_that_cannot_be_written_changes_nothing(photos, monkeypatch):
    def refuse(path, text):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file_index, "write_text", refuse)
    assert len(read_folder(photos).examples) == 6


def test_an_index_finds_what_the_files_hold(photos):
    for _ in range(2):
        index = FileIndex(photos, keep=True)
        assert index.inspect("1.png") == inspect(photos / "1.png")
        assert index.size("1.png") == (96, 65)
        with pytest.raises(BadData, match="does not exist"):
            index.inspect("none.png")
        index.save()
