import json
import tracemalloc

from PIL import Image, ImageDraw, ImageFont, ImageOps

from limner.assembly.base import Shape
from limner.checking import check as module
from limner.checking.check import base_of, check
from limner.checking.encoder import encoded
from limner.errors import BadBase, BadData
from limner.reporter import Reporter
from messages import raises
from recipes import wish
from scenes import blurred, good, plant, scene


def kinds(done) -> set[tuple[str, str]]:
    return {(each.image, each.kind) for each in done.findings if each.level != "note"}


def test_a_set_in_order_has_no_findings(tmp_path):
    done = check(wish(good(tmp_path / "photos")), tmp_path / "out", Reporter())
    assert kinds(done) == set() and done.images == 10 and done.left_out == 0
    (note,) = done.findings
    assert note.kind == "base" and "nowhere" in note.reason, "what was not looked at is said"


def test_every_planted_fault_is_found_and_none_besides(tmp_path):
    folder = good(tmp_path / "photos")
    plant(folder, "soft.png", blurred(20))
    plant(folder, "small.png", scene(21, (80, 80)))
    plant(folder, "long.png", scene(22, (640, 160)))
    plant(folder, "dark.png", scene(23).point(lambda value: value // 6))
    plant(folder, "boxed.png", ImageOps.expand(scene(24, (160, 130)), (0, 15), "black"))
    plant(folder, "copy.jpg", scene(3).resize((150, 150)), quality=90)
    plant(folder, "bare.png", scene(25), caption="")
    plant(folder, "other.png", scene(26), caption="a cat on the moon")
    (folder / "torn.png").write_bytes((folder / "good0.png").read_bytes()[:900])
    plant(folder, "tiny.png", scene(27, (40, 40)))
    done = check(wish(folder), tmp_path / "out", Reporter())
    assert kinds(done) == {
        ("soft.png", "blur"), ("small.png", "small"), ("", "small"), ("long.png", "aspect"),
        ("dark.png", "exposure"),
        ("boxed.png", "border"), ("copy.jpg", "near-duplicate"), ("bare.png", "no-caption"),
        ("other.png", "trigger"), ("torn.png", "left-out"), ("tiny.png", "left-out"),
    }  # fmt: skip
    told = json.loads(done.file.read_text())
    assert told["images"] == 18 and told["left_out"] == 2 and len(told["findings"]) == len(done.findings)
    assert str(tmp_path) not in done.file.read_text()
    page = done.page.read_text()
    assert "soft.png" in page and "sharpest edges" in page and "://" not in page and str(tmp_path) not in page
    with Image.open(done.sheet) as sheet:
        assert sheet.width > 1000


def test_tokens_are_counted_by_the_bases_own_tokenizer(tiny_base, photos, tmp_path):
    base = base_of(wish(photos, base=str(tiny_base)))
    assert base.shape == Shape(multiple=16, resolution=32) and base.tokens is not None
    tokens, most = base.tokens("a cat")
    assert 4 <= tokens <= 7 and most == 77
    (photos / "2.txt").write_text("a" * 200)
    done = check(
        wish(photos, base=str(tiny_base), resolution=None, min_side=16), tmp_path / "out", Reporter()
    )
    assert ("2.png", "long-caption") in kinds(done) and ("1.png", "long-caption") not in kinds(done)


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with raises(BadData):
        check(wish(tmp_path / "empty"), tmp_path / "out", Reporter())


def test_variety_by_a_vision_model(tmp_path):
    folder = good(tmp_path / "photos")
    with raises(BadBase):
        check(wish(folder), tmp_path / "out", Reporter(), encoder=str(tmp_path / "no-such-encoder"))
    with raises(BadBase):
        encoded("no/where", [scene(0)])


def test_memory_does_not_grow_with_the_pictures(tmp_path, monkeypatch):
    """Of each image some 20 kB stay: a small JPEG, a print, figures. Frames stay of the first ones only."""
    monkeypatch.setattr(module, "MAX_FRAMES", 4)
    peaks = []
    for count in (12, 60):
        folder = good(tmp_path / f"photos{count}")
        for number in range(10, count):
            plant(folder, f"more{number}.png", scene(number))
        tracemalloc.start()
        check(wish(folder), tmp_path / "out", Reporter())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 48 < 60_000, peaks


def test_a_mark_is_found_in_images_that_were_not_kept(tmp_path, monkeypatch):
    folder = good(tmp_path / "photos")
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            page = picture.convert("RGB")
        ImageDraw.Draw(page).text((4, 4), "STOCKPIX", font=ImageFont.load_default(24), fill=(255, 255, 255))
        page.save(path)
    marked = [
        item.image
        for item in check(wish(folder), tmp_path / "all", Reporter()).findings
        if item.kind == "watermark"
    ]
    assert len(marked) == 10
    monkeypatch.setattr(module, "MAX_FRAMES", 5)
    again = [
        item.image
        for item in check(wish(folder), tmp_path / "few", Reporter()).findings
        if item.kind == "watermark"
    ]
    assert again == marked
