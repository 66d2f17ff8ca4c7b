"""The address names a folder of the workspace."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

Draw = Callable[..., AppTest]


@pytest.mark.parametrize("name", ["../../etc", "/etc"])
def test_an_address_that_leads_out_is_refused(draw: Draw, cats: Path, name: str) -> None:
    assert "not in the workspace" in draw("images", images=name).error[0].value and cats.is_dir()


def test_a_folder_that_is_gone_is_told(draw: Draw, cats: Path) -> None:
    app = draw("images", images="images/dogs")
    assert "no images in images/dogs any more" in app.error[0].value.replace("\\", "") and cats.is_dir()


def test_a_folder_whose_images_lie_below_it_can_be_opened(draw: Draw, cats: Path) -> None:
    cats.rename(cats.parent / "set")
    (cats / "10_cat").mkdir(parents=True)
    (cats / "deeper").mkdir()
    (cats.parent / "set" / "0.png").rename(cats / "10_cat" / "0.png")
    app = draw("images", images="images/cats")
    assert not app.error and app.selectbox[0].value == "images/cats" and len(app.text_area) == 1
    assert app.selectbox[0].options == ["images/cats", "images/set"]
    (cats.parent / "other" / "deeper").mkdir(parents=True)
    (cats / "10_cat" / "0.png").rename(cats.parent / "other" / "deeper" / "0.png")
    assert draw("images", images="images/other").selectbox[0].value == "images/other"
