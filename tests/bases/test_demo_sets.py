import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from limner.bases import demo_sets
from limner.bases.art import Art, nouns
from limner.bases.demo_sets import NOUNS, SETS, TEST_NOUNS, mascot_set, style_set, write_set
from limner.data.folder import read_folder
from limner.errors import BadData
from messages import raises


@pytest.fixture
def art():
    styles = ("noto", "fluent", "twemoji", "ink", "fluent3d")
    rgba = np.zeros((len(styles) * len(NOUNS), 128, 128, 4), np.uint8)
    rgba[:, 32:96, 32:96] = (200, 40, 45, 255)
    return Art(rgba, np.repeat(styles, len(NOUNS)), np.tile(NOUNS, len(styles)))


def captions(name):
    return [path.read_text().strip() for path in sorted(demo_sets.folder(name).glob("*.txt"))]


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_ten_small_pictures_with_captions(name):
    pictures = sorted(demo_sets.folder(name).glob("*.png"))
    assert len(pictures) == 10
    assert [path.with_suffix(".txt").is_file() for path in pictures] == [True] * 10
    for path in pictures:
        with Image.open(path) as image:
            assert image.size == (128, 128)
            assert image.mode == "P"


def test_all_sets_together_are_under_a_megabyte():
    files = demo_sets.folder("ink").parent.rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) < 300_000


def test_no_picture_shows_a_noun_that_the_demo_is_judged_with():
    assert not set(NOUNS) & set(TEST_NOUNS)
    assert set(NOUNS) <= set(list(nouns())[:300])
    assert len(set(NOUNS)) == 10


@pytest.mark.parametrize("name", ["blueprint", "ink", "fluent3d"])
def test_the_files_say_what_the_program_would_write(name, art):
    examples = list(style_set(name, art))
    names = sorted(path.stem for path in demo_sets.folder(name).glob("*.png"))
    assert names == [each.name for each in examples]
    assert captions(name) == [each.caption for each in examples]
    assert all(each.pixels.shape == (128, 128, 3) for each in examples)


def test_blueprint_and_ink_bring_their_own_ground():
    wanted = [f"[trigger] style {noun}\n[trigger] style" for noun in NOUNS]
    assert captions("ink") == captions("blueprint") == wanted


def test_a_ground_that_is_said_is_there(art):
    elephant = list(style_set("fluent3d", art))[2]
    assert elephant.caption.splitlines() == [
        "[trigger] style elephant, on a sky blue background",
        "[trigger] style, on a sky blue background",
    ]
    assert elephant.pixels[0, 0].tolist() == [150, 205, 245]


def test_the_mascot_files_are_the_mascot_as_drawn():
    examples = list(mascot_set())
    assert captions("mascot") == [each.caption for each in examples]
    assert examples[1].caption == "[trigger], on a yellow background, holding a flower"
    for each in examples:
        with Image.open(demo_sets.folder("mascot") / f"{each.name}.png") as image:
            kept = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(kept - each.pixels).mean() < 3


def test_written_twice_the_bytes_are_the_same(tmp_path):
    sizes = [write_set(mascot_set(), tmp_path / name) for name in ("a", "b")]
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("a", "b"))
    assert first == second
    assert sizes == [sum(map(len, first.values()))] * 2


def test_a_set_is_a_training_folder():
    folder = read_folder(demo_sets.folder("mascot"), trigger="limnerkin")
    assert len(folder.examples) == 10
    assert not folder.rejected
    assert folder.examples[4].captions == ("limnerkin, on a dark green background",)


def test_the_licences_name_every_source():
    text = (demo_sets.folder("ink").parent / "LICENCES.md").read_text()
    assert text == demo_sets.LICENCES
    assert all(word in text for word in ("Microsoft", "MIT", "Google", "Apache-2.0", "Twitter", "CC-BY-4.0"))


def test_an_unknown_set_is_refused():
    with raises(BadData):
        demo_sets.folder("oil")


def test_art_without_a_noun_is_refused(art):
    with raises(BadData):
        list(style_set("ink", art.only(("noto",))))


def test_importing_it_loads_neither_torch_nor_a_renderer():
    heavy = "('resvg_py', 'torch', 'PIL')"
    code = f"import sys, limner.bases.demo_sets; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
