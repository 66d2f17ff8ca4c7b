"""Files, zips and folders become folders of images."""

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from image_scenes import area, png, press, zipped
from limner.studio.workspace import Workspace
from studio_scenes import words

Draw = Callable[..., AppTest]


def test_a_zip_becomes_a_folder_and_what_is_left_out_is_named(draw: Draw, workspace: Workspace) -> None:
    app = draw("images")
    content = zipped({"a.png": png(), "a.txt": b"a red cat", "b.exe": b"MZ", "broken.png": b"no picture"})
    app.file_uploader[0].upload("my cats.zip", content, "application/zip").run()
    assert next(box for box in app.text_input if box.label == "Name of the new folder").value == "my cats"
    press(app, "Add them")
    folder = workspace.images / "my cats"
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.txt"]
    assert app.query_params["images"] == "images/my cats"
    text = words(app).replace("\\", "")
    assert "Added: 1 picture, 1 other file." in text and "2 files left out" in app.warning[0].value
    assert "b.exe: neither a picture" in text and "broken.png" in text
    assert area(app, "a.png").value == "a red cat"


def test_pictures_are_added_to_the_folder_that_is_open(draw: Draw, cats: Path) -> None:
    app = draw("images", images="images/cats")
    app.file_uploader[0].upload("new.png", png(), "image/png").run()
    app.radio[0].set_value("Into images/cats").run()
    press(app, "Add them")
    assert (cats / "new.png").is_file()


def test_an_upload_of_nothing_usable_leaves_no_folder(draw: Draw, workspace: Workspace) -> None:
    app = draw("images")
    app.file_uploader[0].upload("x.exe", b"MZ", "application/octet-stream").run()
    press(app, "Add them")
    assert not app.error and "neither a picture" in words(app)
    assert workspace.image_folders() == [] and not any(workspace.images.iterdir())
