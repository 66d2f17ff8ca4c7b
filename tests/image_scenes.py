"""Images, zips and checks for the tests of the page Images."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from streamlit.testing.v1 import AppTest

from limner.studio.images.image_set import ImageSet, SetSettings
from limner.studio.workspace import Workspace


def area(app: AppTest, file: str) -> Any:
    """The text area of an image."""
    return next(box for box in app.text_area if file in str(box.key))


def press(app: AppTest, label: str) -> AppTest:
    """Press a button, and draw again."""
    next(button for button in app.button if button.label.startswith(label)).click().run()
    assert not app.exception, app.exception[0].message
    return app


def png(color: tuple[int, int, int] = (9, 90, 120), size: tuple[int, int] = (64, 48)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


FINDING = {
    "image": "0.png", "level": "problem", "kind": "blur", "reason": "its <b>edges</b> are wide",
    "remedy": "Leave it out.", "copy_of": "",
}  # fmt: skip


def write_check(workspace: Workspace, cats: Path, settings: SetSettings) -> None:
    images = ImageSet(workspace, cats)
    path = images.own_file("checks", "") / images.mark(settings) / "check.json"
    path.parent.mkdir(parents=True)
    view = {
        "image": "0.png",
        "pixels": [96, 96],
        "bucket": [48, 80],
        "crop": [10, 0, 68, 96],
        "crop_by": "faces",
    }
    value = {"images": 4, "left_out": 0, "problem": 1, "advice": 1, "note": 0, "seen": [view]}
    rest = {**FINDING, "image": "", "level": "advice", "kind": "count", "reason": "4 images"}
    path.write_text(json.dumps({**value, "findings": [FINDING, rest]}))


@dataclass
class Queue:
    """What was added in place of a job."""

    calls: list[tuple[list[str], dict[str, Any]]]
