import pytest

from limner.data.folder import read_folder
from limner.data.region import region
from limner.errors import BadData


@pytest.mark.parametrize(
    "text", ["10 20 110 220", "10,20,110,220\n", "[10, 20, 110, 220]", "10\t20\n110 220"]
)
def test_four_numbers_in_any_dress(text):
    assert region(text, 300, 300) == (10, 20, 110, 220)


def test_nothing_said_is_the_whole():
    assert region("", 300, 300) is None and region(" \n", 300, 300) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10 20 110", "four whole numbers"),
        ("left top right bottom", "four whole numbers"),
        ("0.1 0.2 0.5 0.5", "four whole numbers"),
        ("10 20 301 220", "no part of its 300 x 300"),
        ("110 20 10 220", "no part"),
        ("-1 0 10 10", "no part"),
    ],
)
def test_what_is_no_part_is_refused(text, said):
    with pytest.raises(BadData, match=said):
        region(text, 300, 300)


def test_a_file_beside_an_image_says_what_counts(tmp_path, paint):
    paint(300, 200).save(tmp_path / "a.png")
    paint(300, 200).save(tmp_path / "b.png")
    (tmp_path / "a.crop").write_text("100 0 300 200")
    first, second = read_folder(tmp_path, trigger="x").examples
    assert first.region == first.extent == (100, 0, 300, 200)
    assert second.region is None and second.extent == (0, 0, 300, 200)


def test_a_column_of_the_metadata_says_it_too(tmp_path, paint):
    paint(300, 200).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x", "crop": [0, 0, 200, 200]}')
    assert read_folder(tmp_path).examples[0].region == (0, 0, 200, 200)


def test_a_bad_or_small_part_leaves_the_image_out_by_name(tmp_path, paint):
    for name in "abc":
        paint(300, 200).save(tmp_path / f"{name}.png")
    (tmp_path / "a.crop").write_text("0 0 9999 9999")
    (tmp_path / "b.crop").write_text("0 0 30 30")
    found = read_folder(tmp_path, trigger="x", min_side=64)
    assert [example.path.name for example in found.examples] == ["c.png"]
    assert "no part of its 300 x 200" in found.rejected[0].reason
    assert "30 x 30 pixels; the short side needs 64" in found.rejected[1].reason
