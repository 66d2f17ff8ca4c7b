"""Masks are found by the name of their image; what does not fit or goes with no image is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.data.folder import Folder, read_folder
from limner.data.images import read_alpha
from limner.data.masks import read_mask_image, require_masks
from limner.data.summary import what_was_read
from limner.data.views import Scale, View, mask_pixels, views
from limner.errors import BadData
from messages import raises


def put(folder: Path, *names: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    """Pictures of these names, no two alike, white where they are masks."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (40 * number, 0, 99)).convert(mode).save(path)
    return folder


def white(folder: Path, *names: str, size: tuple[int, int] = (40, 30)) -> Path:
    """Masks of these names whose left half is white."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("L", size)
        image.paste(255, (0, 0, size[0] // 2, size[1]))
        image.save(path)
    return folder


def found(folder: Folder) -> dict[str, str | None]:
    """Image -> name of its mask."""
    return {folder.named(item.path): item.mask.path.name if item.mask else None for item in folder.examples}


def test_a_folder_has_the_names_of_the_images(tmp_path):
    images = put(tmp_path / "images", "cat.jpg", "sub/dog.png", "caf\u00e9.png", "bird.png", "cat_1.png")
    masks = white(
        tmp_path / "masks", "cat.png", "dog-mask.png", "cafe\u0301_mask.png", "cat_1-masklabel.png", "x.png"
    )
    folder = read_folder(images, masks=masks)
    assert found(folder) == {
        "bird.png": None,
        "cat.jpg": "cat.png",
        "caf\u00e9.png": "cafe\u0301_mask.png",
        "cat_1.png": "cat_1-masklabel.png",
        "sub/dog.png": "dog-mask.png",
    }
    lines = what_was_read(folder)
    assert "Masks: 4 of 5 images have one; where there is none, all counts." in lines
    assert "Not used: 1 mask (x.png) that no image bears the name of." in lines


def test_masks_below_the_images_are_not_trained_whatever_their_folder_is_called(tmp_path):
    images = put(tmp_path, "cat.png", "dog.png")
    white(tmp_path / "matte", "cat.png", "bird.png")
    assert len(read_folder(images).examples) == 4
    folder = read_folder(images, masks=tmp_path / "matte")
    assert found(folder) == {"cat.png": "cat.png", "dog.png": None}
    assert [path.name for path in folder.surplus_masks] == ["bird.png"] and not folder.masks


@pytest.mark.parametrize("place", ["sidecar", "the folder itself"])
def test_masks_lie_beside_the_images(tmp_path, place):
    put(tmp_path, "a.png", "b.jpg", "c.png", "sub/a.png")
    white(tmp_path, "a-mask.png", "b_mask.png", "c.mask.png", "misspelt-mask.png")
    folder = read_folder(tmp_path, masks=tmp_path if place != "sidecar" else place)
    names = {"a.png": "a-mask.png", "b.jpg": "b_mask.png", "c.png": "c.mask.png", "sub/a.png": None}
    assert found(folder) == names
    assert [path.name for path in folder.surplus_masks] == ["misspelt-mask.png"]
    assert not folder.masks and not folder.rejected
    unasked = read_folder(tmp_path)
    assert all(item.mask is None for item in unasked.examples)
    assert sorted(unasked.masks) == ["a-mask.png", "b_mask.png", "c.mask.png"]


def test_masks_that_leave_their_images_out_are_told_before_those_that_are_missing(tmp_path):
    images = put(tmp_path, "a.png", "b.png", "c.png")
    for name in ("a.png", "b.png"):
        (tmp_path / "matte").mkdir(exist_ok=True)
        Image.new("L", (10, 99), 255).save(tmp_path / "matte" / name)
    folder = read_folder(images, masks=tmp_path / "matte")
    masks = [example.mask for example in folder.examples]
    with raises(BadData):
        require_masks(folder.root, tmp_path / "matte", masks, folder.rejected)


def test_alpha_is_the_mask_of_its_own_image(tmp_path):
    put(tmp_path, "plain.png")
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[:, 10:, 3] = 200
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    Image.fromarray(pixels[..., :3] * 0).convert("RGBA").save(tmp_path / "opaque.png")
    Image.fromarray(pixels * 0).save(tmp_path / "nothing.png")
    folder = read_folder(tmp_path, masks="alpha")
    assert found(folder) == {"cut.png": "cut.png", "opaque.png": "opaque.png", "plain.png": None}
    cut = folder.examples[0].mask
    assert cut and cut.bounds == (10, 0, 40, 30) and np.asarray(cut.image())[0, 10] == 200
    (rejection,) = folder.rejected
    assert rejection.path.name == "nothing.png" and "all transparent" in rejection.reason


def test_alpha_is_turned_as_its_image_is(tmp_path):
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    image.putpixel((7, 0), (0, 0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    image.save(tmp_path / "turned.png", exif=exif)
    alpha = read_alpha(tmp_path / "turned.png")
    assert alpha and alpha.size == (4, 8) and alpha.getpixel((3, 7)) == 255
    gray = Image.fromarray(np.array([[7, 60000]], np.uint16))
    gray.save(tmp_path / "gray.png", transparency=7)
    alpha = read_alpha(tmp_path / "gray.png")
    assert alpha and np.asarray(alpha).tolist() == [[0, 255]]


def test_what_is_transparent_in_a_mask_is_black(tmp_path):
    pixels = np.array([[[255, 255, 255, 255], [255, 255, 255, 0], [255, 255, 255, 128], [0, 0, 0, 128]]])
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "mask.png")
    assert np.asarray(read_mask_image(tmp_path / "mask.png")).tolist() == [[255, 0, 128, 0]]
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(read_mask_image(tmp_path / "deep.png")).tolist() == [[0, 128, 255]]


def test_masks_that_cannot_be_used_are_named(tmp_path):
    images = put(tmp_path / "images", *(f"{name}.png" for name in "abcdef"))
    masks = white(tmp_path / "masks", "a.png", "a-mask.png", "f.png")
    white(masks, "b.png", size=(30, 40))
    Image.new("1", (40, 30)).save(masks / "c.png")
    (masks / "d.png").write_bytes(b"none")
    white(masks, "e.png", size=(27, 20))  # to a pixel of the same shape
    folder = read_folder(images, masks=masks)
    assert sorted(found(folder)) == ["e.png", "f.png"]
    reasons = {item.path.name: item.reason for item in folder.rejected}
    assert reasons == {
        "a.png": "has two masks, a.png and a-mask.png. Remove one.",
        "b.png": "has 40 x 30 pixels, and its mask b.png 30 x 40: another shape. Save the mask in the "
        "shape of the image.",
        "c.png": "has a mask that is all black, c.png: nothing of it would be learned. Paint white what "
        "counts, or remove the mask.",
        "d.png": reasons["d.png"],
    }
    assert reasons["d.png"].startswith("has a mask, d.png, that ")


def test_masks_that_are_nowhere_are_refused(tmp_path):
    put(tmp_path, "a.png")
    with raises(BadData):
        read_folder(tmp_path, masks=tmp_path / "nowhere")
    for place in ("alpha", "sidecar", tmp_path):
        with raises(BadData):
            require_masks(tmp_path, place, [None])
    require_masks(tmp_path, None, [None])


def view(tmp_path: Path, crop: tuple[int, int, int, int], *, flip: bool = False) -> View:
    """Of an image of 64 x 32 whose mask, half as large, is white at its left."""
    put(tmp_path / "images", "a.png", size=(64, 32))
    white(tmp_path / "masks", "a.png", size=(32, 16))
    (example,) = read_folder(tmp_path / "images", masks=tmp_path / "masks").examples
    return View(example, (32, 16), crop, flip=flip, caption="")


def test_a_mask_is_cropped_and_mirrored_as_its_image_is(tmp_path):
    whole = mask_pixels(view(tmp_path, (0, 0, 64, 32)))
    assert whole.shape == (16, 32) and (whole[:, :16] == 255).all() and not whole[:, 16:].any()
    assert np.array_equal(mask_pixels(view(tmp_path, (0, 0, 64, 32), flip=True)), whole[:, ::-1])
    right = mask_pixels(view(tmp_path, (24, 0, 56, 16)))
    assert (right[:, :8] == 255).all() and not right[:, 8:].any()


def test_an_image_that_was_exchanged_is_told(tmp_path):
    seen = view(tmp_path, (0, 0, 64, 32))
    white(tmp_path / "masks", "a.png", size=(8, 4))
    with raises(BadData):
        mask_pixels(seen)


def test_a_crop_that_leaves_only_black_is_refused(tmp_path):
    example = view(tmp_path, (0, 0, 64, 32)).example
    options = {"scales": [Scale(((32, 32),))], "flip": False, "dropout": False}
    assert len(views([example], **options, crops={(example, (32, 32)): (16, 0, 48, 32)})) == 1
    with raises(BadData):
        views([example], **options, crops={(example, (32, 32)): (32, 0, 64, 32)})
