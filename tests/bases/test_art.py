import json
from pathlib import Path

import numpy as np
import pytest

from limner.bases import art as art_module
from limner.bases.art import (
    DRAWING_STYLES,
    STYLES,
    TRAINED_STYLES,
    UNSEEN_STYLES,
    Art,
    draw_all,
    nouns,
    read_art,
)
from limner.errors import BadData
from messages import raises

pytest.importorskip("resvg_py")
SQUARE = '<rect x="0" y="0" width="16" height="32" fill="#f00"/>'


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node_modules folder with one emoji; the older Noto has no table of characters, as in reality."""
    monkeypatch.setattr(art_module, "nouns", lambda: {"apple": "red apple"})
    data = tmp_path / "emojibase-data" / "en"
    data.mkdir(parents=True)
    (data / "data.json").write_text(json.dumps([{"hexcode": "1F34E", "label": "red apple"}]))
    for style, package in DRAWING_STYLES.items():
        folder = tmp_path / package
        folder.mkdir(parents=True)
        (folder / "chars.json").write_text(json.dumps({} if style == "blob" else {"1f34e": "red-apple"}))
        (folder / "icons.json").write_text(
            json.dumps({"width": 32, "height": 32, "icons": {"red-apple": {"body": SQUARE}}})
        )
    return tmp_path


def test_nouns_are_plain_distinct_and_at_most_two_words() -> None:
    found = nouns()
    assert len(found) > 400
    assert len(set(found.values())) == len(found)
    assert all(noun == noun.lower().strip() and len(noun.split()) <= 2 for noun in found)
    assert list(found)[:2] == ["apple", "banana"]


def test_draws_every_style_that_has_the_noun(modules: Path) -> None:
    drawn = draw_all(modules)
    assert sorted(drawn.style) == sorted(DRAWING_STYLES)
    assert drawn.rgba.shape == (len(DRAWING_STYLES), 128, 128, 4)
    assert (drawn.rgba[0, 64, 32] == (255, 0, 0, 255)).all()
    assert (drawn.rgba[0, 64, 96] == 0).all()


def test_a_missing_package_is_named_with_the_command(modules: Path) -> None:
    (modules / DRAWING_STYLES["twemoji"] / "icons.json").unlink()
    with raises(BadData):
        draw_all(modules)


def test_an_unknown_label_is_named(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(art_module, "nouns", lambda: {"apple": "crimson apple"})
    with raises(BadData):
        draw_all(modules)


def test_what_was_written_is_read(art: Art, art_file: Path) -> None:
    read = read_art(art_file)
    assert (read.rgba == art.rgba).all()
    assert (read.style == art.style).all()
    assert (read.concept == art.concept).all()


def test_only_keeps_styles_and_the_first_nouns(art: Art) -> None:
    few = art.only(TRAINED_STYLES, 2)
    assert set(few.style) == set(TRAINED_STYLES)
    assert list(dict.fromkeys(few.concept)) == list(nouns())[:2]
    assert not set(TRAINED_STYLES) & set(UNSEEN_STYLES)
    assert set(STYLES) == {*TRAINED_STYLES, *UNSEEN_STYLES}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04torn", None])
def test_what_is_no_art_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "art.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadData, match=r"not an art file.*limner\.bases\.art"):
        read_art(path)


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "art.npz", rgba=np.zeros(3))
    with pytest.raises(BadData, match="not an art file"):
        read_art(tmp_path / "art.npz")


def test_the_packages_are_named_where_a_shell_takes_them_from(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["art", "--packages"])
    art_module.main()
    said = capsys.readouterr().out.split()
    assert said == [f"{name}@{version}" for name, version in art_module.PACKAGES.items()]
