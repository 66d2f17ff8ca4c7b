"""The grid: 500 images, hostile names, crops, fields that are written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from image_scenes import Queue, area, png, press, write_check
from limner.studio.images import grid_view
from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.workspace import Workspace
from studio_scenes import words

Draw = Callable[..., AppTest]


def test_a_caption_that_says_nothing_is_none(draw: Draw, cats: Path) -> None:
    app = draw("images", images="images/cats")
    area(app, "0.png").set_value(" .. ").run()
    assert not (cats / "0.txt").exists() and not app.error and area(app, "0.png").value == ""
    area(app, "0.png").set_value("...").run()
    area(app, "1.png").set_value("another").run()
    assert (cats / "1.txt").read_text() == "another\n" and not (cats / "0.txt").exists()


def test_a_field_whose_callback_was_cut_short_is_written_all_the_same(
    draw: Draw, cats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_view, "save_caption", lambda *_: None)
    app = draw("images", images="images/cats")
    key = area(app, "0.png").key
    area(app, "0.png").set_value("typed at once").run()
    assert (cats / "0.txt").read_text() == "typed at once\n"
    assert area(app, "0.png").key == key  # the same field: what is typed in it meanwhile stays
    (cats / "0.txt").write_text("from elsewhere")
    assert area(app.run(), "0.png").value == "from elsewhere"


def test_hostile_names_and_captions_are_shown_as_they_stand(draw: Draw, cats: Path) -> None:
    name = "<img src=x onerror=alert(1)>[a](b).png"
    Image.new("RGB", (64, 64)).save(cats / name)
    (cats / name).with_suffix(".txt").write_text("<script>alert(1)</script> :red[x] $y$")
    app = draw("images", images="images/cats")
    assert r"\<img src=x onerror=alert\(1\)\>\[a\]\(b\)\.png" in words(app)
    assert area(app, name).value == "<script>alert(1)</script> :red[x] $y$"
    next(box for box in app.text_input if box.label == "Trigger word").set_value("<b>zxq</b>").run()
    assert r"training reads: \<b\>zxq\</b\>, \<script\>" in words(app)


def test_of_500_images_only_a_page_is_opened(
    draw: Draw, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace.images / "many"
    folder.mkdir(parents=True)
    content = png()
    for number in range(500):
        (folder / f"{number:03}.png").write_bytes(content)
    opened = []
    read = grid_view.thumbnail
    monkeypatch.setattr(grid_view, "thumbnail", lambda path, *rest: opened.append(path) or read(path, *rest))
    app = draw("images", images="images/many")
    assert "500 images" in words(app) and len(app.text_area) == 24
    assert len(opened) == 24 == len(list(workspace.thumbnails.iterdir()))
    app.pagination[0].set_value(21).run()
    assert len(app.text_area) == 20 and area(app, "499.png").value == ""


def test_crops_can_be_seen_on_the_page(draw: Draw, cats: Path) -> None:
    Image.new("RGB", (96, 48)).save(cats / "wide.png")
    app = draw("images", images="images/cats")
    next(toggle for toggle in app.toggle if toggle.label == "Crops").set_value(True).run()
    text = words(app).replace("\\", "")
    assert "At 64 pixels: 4 of 64 x 64, 1 of 80 x 48" in text
    assert "96 x 48, 83% of it to 80 x 48" in text and not app.warning


def test_what_the_check_can_mend_has_a_button_beside_its_picture(
    draw: Draw, cats: Path, workspace: Workspace, queue: Queue
) -> None:
    write_check(workspace, cats, SetSettings())
    (file,) = ImageSet(workspace, cats).own_file("checks", "").glob("*/check.json")
    text = file.read_text()
    assert "Fix into a new folder" not in [b.label for b in draw("images", images="images/cats").button]
    file.write_text(text.replace("Leave it out.", "Remove it; --fix does."))
    press(draw("images", images="images/cats"), "Fix into a new folder")
    assert f"--fix={workspace.images / 'cats-fixed'}" in queue.calls[0][0]
