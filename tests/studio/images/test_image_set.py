"""A folder of images: the trigger as training puts it, metadata, masks and crops."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from streamlit.testing.v1 import AppTest

from image_scenes import area
from limner.studio.images.image_set import ImageSet
from limner.studio.workspace import Workspace
from studio_scenes import words

Draw = Callable[..., AppTest]


def test_the_trigger_is_shown_as_training_puts_it(draw: Draw, cats: Path) -> None:
    (cats / "0.txt").write_text("zxq asleep")
    (cats / "1.txt").write_text("[trigger], awake")
    app = draw("images", images="images/cats")
    assert "has a placeholder" in words(app)
    next(box for box in app.text_input if box.label == "Trigger word").set_value("zxq").run()
    lines = [line.value.replace("\\", "") for line in app.caption if "training reads" in line.value]
    assert [line.rpartition("reads: ")[2] for line in lines] == [
        "zxq, awake",
        "zxq, a cat, number 2",
        "zxq, a cat, number 3",
    ]
    assert draw("images", images="images/cats").text_input[1].value == "zxq"


def test_captions_of_metadata_are_shown(draw: Draw, cats: Path) -> None:
    (cats / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "from the list"}) + "\n")
    box = area(draw("images", images="images/cats"), "0.png")
    assert box.value == "from the list" and not box.disabled


def test_masks_controls_and_crops_are_named_with_their_image(
    draw: Draw, cats: Path, workspace: Workspace
) -> None:
    (cats / "masks").mkdir()
    for name in ("0-mask.png", "masks/1.png"):
        Image.new("L", (96, 96)).save(cats / name)
    (cats / "2.crop").write_text("0 0 48 96")
    assert ImageSet(workspace, cats).companions == {"0.png": ["0-mask.png"], "1.png": ["masks/1.png"]}
    app = draw("images", images="images/cats")
    lines = [line.value.replace("\\", "") for line in app.caption if "attach_file" in line.value]
    assert [line.rpartition(" ")[2] for line in lines] == ["0-mask.png", "masks/1.png", "2.crop"]
    assert len(app.text_area) == 4
    assert len(app.image) == 4 + 2  # each small, beside its image


def test_a_companion_outside_the_workspace_is_named_and_not_shown(draw: Draw, cats: Path) -> None:
    Image.new("RGB", (8, 8)).save(cats.parents[1].parent / "outside.png")
    row = {"file_name": "0.png", "text": "a", "mask": "../../../outside.png"}
    (cats / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    app = draw("images", images="images/cats")
    assert any("outside" in line.value for line in app.caption)
    assert len(app.image) == 4
