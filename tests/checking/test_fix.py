import json

from PIL import Image, ImageOps

from limner.checking.check import check
from limner.checking.fix import write_fixed_copy
from limner.errors import BadUsage
from limner.reporter import Reporter
from messages import raises
from recipes import wish
from scenes import good, plant, scene


def test_what_is_safe_is_mended_into_a_new_folder(tmp_path):
    folder = good(tmp_path / "photos", 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    plant(folder, "turned.jpg", scene(30, (200, 140)), exif=exif, quality=95)
    plant(folder, "ink.jpg", scene(31).convert("CMYK"), quality=95)
    plant(folder, "clear.png", scene(32).convert("RGBA"))
    with Image.open(folder / "clear.png") as opened:
        opened.putalpha(128)
        opened.save(folder / "clear.png")
    plant(folder, "burst.jpg", scene(0).resize((150, 150)), quality=90)
    (folder / "torn.png").write_bytes(b"no picture")
    (folder / "good1.crop").write_text("0 0 128 128")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = check(wish(folder), tmp_path / "out", Reporter())
    fixed = write_fixed_copy(done, tmp_path / "fixed", Reporter())
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}, "never in place"
    assert set(fixed.copies) == {"good0.png", "good1.png"}
    assert set(fixed.conversions) == {"turned.jpg", "ink.jpg", "clear.png"}
    assert dict(fixed.left_behind).keys() == {"burst.jpg", "torn.png"}
    with Image.open(tmp_path / "fixed" / "turned.jpg") as turned:
        assert turned.size == (140, 200) and not turned.getexif()
    with (
        Image.open(tmp_path / "fixed" / "ink.jpg") as ink,
        Image.open(tmp_path / "fixed" / "clear.png") as clear,
    ):
        assert ink.mode == clear.mode == "RGB"
    assert (tmp_path / "fixed" / "good0.png").read_bytes() == before["good0.png"]
    assert (tmp_path / "fixed" / "good0.txt").read_text() == "sks cat in a beach\n"
    assert (tmp_path / "fixed" / "good1.crop").read_text() == "0 0 128 128\n"
    assert json.loads((tmp_path / "fixed" / "fixed.json").read_text())["folder"] == "fixed"
    again = check(wish(tmp_path / "fixed"), tmp_path / "out", Reporter())
    assert {each.kind for each in again.findings} <= {"base", "count"}
    for bad in (tmp_path / "fixed", folder / "inside"):
        with raises(BadUsage):
            write_fixed_copy(done, bad, Reporter())


def test_an_image_without_a_caption_gets_that_of_its_copy(tmp_path):
    folder = good(tmp_path / "photos", 4)
    soft = scene(0).resize((80, 80)).resize((160, 160))
    plant(folder, "sharp.png", scene(40), caption="")
    plant(folder, "soft.png", scene(40).resize((110, 110)), caption="sks cat under a lamp")
    plant(folder, "a-turned.png", ImageOps.mirror(scene(41)), caption="")
    plant(folder, "b-turned.png", scene(41).resize((110, 110)), caption="sks cat looks to the left")
    plant(folder, "worse.png", soft, caption="sks cat in a blur")
    (folder / "again.png").write_bytes((folder / "good3.png").read_bytes())
    fixed = write_fixed_copy(
        check(wish(folder), tmp_path / "out", Reporter()), tmp_path / "fixed", Reporter()
    )
    left = {"soft.png", "b-turned.png", "worse.png", "good3.png"}
    assert dict(fixed.left_behind).keys() == left
    assert dict(fixed.caption_transfers) == {"sharp.png": "soft.png", "again.png": "good3.png"}
    assert (tmp_path / "fixed" / "sharp.txt").read_text() == "sks cat under a lamp\n"
    assert (tmp_path / "fixed" / "good0.txt").read_text() == "sks cat in a beach\n", "it keeps its own"
    assert not (tmp_path / "fixed" / "a-turned.txt").exists(), "left is not left in a mirror image"
