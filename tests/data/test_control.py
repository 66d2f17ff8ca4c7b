"""Control images are found by the name of their target, and what does not pair up is named."""

from pathlib import Path

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from limner.data.control import ControlFit, ControlFolders, counted_controls, view_of_control
from limner.data.folder import read_folder
from limner.data.summary import what_was_read
from limner.errors import BadData
from messages import raises


def put(folder: Path, *names: str, size: tuple[int, int] = (40, 30)) -> Path:
    """Images of these names."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40 * number, 0, 99)).save(path)
    return folder


def controls(folder: Path, *control: Path) -> dict[str, list[str]]:
    """Target -> names of its control images."""
    each = counted_controls(folder, control)
    read = read_folder(folder, control=control, controls_each=each)
    return {item.path.name: [path.path.name for path in item.controls] for item in read.examples}


def test_one_folder_has_the_names_of_the_targets(tmp_path):
    after = put(tmp_path / "after", "cat.png", "sub/dog.jpg", "caf\u00e9.png")
    before = put(tmp_path / "before", "cat.webp", "dog.png", "cafe\u0301.png")
    wanted = {"cat.png": ["cat.webp"], "dog.jpg": ["dog.png"], "caf\u00e9.png": ["cafe\u0301.png"]}
    assert controls(after, before) == wanted


def test_several_come_from_several_folders_or_are_numbered(tmp_path):
    after = put(tmp_path / "after", "a.png", "a_1.png")
    pose, face = put(tmp_path / "pose", "a.png", "a_1.png"), put(tmp_path / "face", "a.png", "a_1.png")
    assert controls(after, pose, face) == {"a.png": ["a.png"] * 2, "a_1.png": ["a_1.png"] * 2}
    numbered = put(tmp_path / "numbered", "b_2.png", "b_10.png", "b_1.png")
    (target,) = controls(put(tmp_path / "one", "b.png"), numbered).values()
    assert target == ["b_1.png", "b_2.png", "b_10.png"]


def test_what_does_not_pair_up_is_named(tmp_path):
    after = put(tmp_path / "after", "a.png", "b.png", "c.png", "d.png")
    before = put(tmp_path / "before", "a.png", "b.png", "b.jpg", "extra.png")
    (before / "d.png").write_bytes(b"none")
    read = read_folder(after, control=(before,), controls_each=counted_controls(after, (before,)))
    reasons = {item.path.name: item.reason for item in read.rejected}
    assert reasons["b.png"] == "has two control images of one name, b.jpg and b.png. Remove one."
    assert reasons["c.png"].startswith("has no control image. Add it under the name")
    assert reasons["d.png"].startswith("has a control image that ")
    assert [path.name for path in read.surplus_controls] == ["extra.png"]
    assert any("extra.png" in line for line in what_was_read(read))


def test_controls_of_another_shape_are_told(tmp_path):
    after, before = put(tmp_path / "after", "a.png"), put(tmp_path / "before", "a.png", size=(30, 40))
    lines = what_was_read(read_folder(after, control=(before,), controls_each=1))
    assert any("1 of 1 control image" in line and "30 x 40" in line and "40 x 30" in line for line in lines)
    same = put(tmp_path / "same", "a.png", size=(81, 60))
    lines = what_was_read(read_folder(after, control=(same,), controls_each=1))
    assert not any("another shape" in line for line in lines)


@pytest.mark.parametrize("column", ["control", "edit_image", "control_path"])
def test_metadata_names_them(tmp_path, column):
    put(tmp_path, "a.png", "b.png", "src/x.png", "src/y.png")
    rows = [
        f'{{"file_name": "{name}", "text": "t", "{column}": {value}}}'
        for name, value in (("a.png", '["src/x.png", "src/y.png"]'), ("b.png", '"src/y.png"'))
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert counted_controls(tmp_path, ()) == 2
    read = read_folder(tmp_path, controls_each=2)
    assert [item.path.name for item in read.examples] == ["a.png"]
    assert [item.path.name for item in read.examples[0].controls] == ["x.png", "y.png"]
    assert "has 1 of 2 control images" in read.rejected[0].reason
    assert read.masks == ()


def test_numbered_columns_count(tmp_path):
    put(tmp_path, "a.png", "x.png", "y.png")
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,control_path_1,control_path_2\na.png,t,x.png,y.png\n"
    )
    assert counted_controls(tmp_path, ()) == 2


def test_a_control_folder_among_the_images_holds_no_targets(tmp_path):
    put(tmp_path, "a.png", "before/a.png")
    assert controls(tmp_path, tmp_path / "before") == {"a.png": ["a.png"]}


def test_a_folder_without_matches_and_one_that_is_not_there(tmp_path):
    after, before = put(tmp_path / "after", "a.png"), put(tmp_path / "before", "z.png")
    with raises(BadData):
        counted_controls(after, (before,))
    with raises(BadData):
        ControlFolders((tmp_path / "nowhere",))
    assert counted_controls(tmp_path / "nowhere", (before, before)) == 2


def test_a_control_is_fitted_as_diffusers_resizes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    fit = ControlFit(lambda width, height: (48, 32), 16)
    wanted = VaeImageProcessor(vae_scale_factor=16).resize(image, 32, 48)
    assert np.array_equal(np.asarray(fit.image(image)), np.asarray(wanted))
    crop = ControlFit(lambda width, height: (width, height), 16)
    assert crop.fitted(90, 50) == (80, 48) == crop.image(image).size
    assert np.array_equal(np.asarray(crop.image(image)), pixels[1:49, 5:85])


def test_a_mirrored_target_has_mirrored_controls(tmp_path):
    folder = tmp_path / "before"
    folder.mkdir()
    ramp = np.tile(np.arange(32, dtype=np.uint8), (32, 1))[..., None].repeat(3, 2)
    Image.fromarray(ramp).save(folder / "a.png")
    after = put(tmp_path / "after", "a.png")
    (example,) = read_folder(after, control=(folder,), controls_each=1).examples
    fit = ControlFit(lambda width, height: (32, 32), 16)
    views = [np.asarray(view_of_control(example.controls[0], fit, flip=flip)) for flip in (False, True)]
    assert np.array_equal(views[0], ramp) and np.array_equal(views[1], ramp[:, ::-1])


def test_controls_that_the_base_cannot_read_are_named(tmp_path):
    after, before = put(tmp_path / "after", "a.png", "b.png"), put(tmp_path / "before", "a.png")
    put(before, "b.png", size=(90, 64))
    fit = ControlFit(lambda width, height: (width, height), 16, 64, 8)
    read = read_folder(after, control=(before,), controls_each=1, fit=fit)
    assert [item.path.name for item in read.examples] == ["b.png"]
    assert read.rejected[0].reason.startswith("has a control image that has 40 x 30 pixels; this base")
