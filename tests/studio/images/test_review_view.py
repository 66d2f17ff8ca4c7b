"""The table says whose each caption is."""

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from limner.studio.images.image_set import ImageSet
from limner.studio.images.review_view import review_rows
from limner.studio.workspace import Workspace

Draw = Callable[..., AppTest]


def test_the_review_says_whose_each_caption_is(draw: Draw, cats: Path, workspace: Workspace) -> None:
    images = ImageSet(workspace, cats)
    facts = {"by": "claude", "model": "claude-x", "note": "cut at a full stop"}
    (cats / "1.txt").unlink()
    images.store.put("1.png", "0" * 64, ("by a model",), facts)
    images.store.flag("2.png", "0" * 64, "is a refusal", facts)
    rows = review_rows(ImageSet(workspace, cats))
    assert [(row["caption"], row["from"], row["note"]) for row in rows[:3]] == [
        ("a cat, number 0", "you", ""),
        ("by a model", "claude-x", "cut at a full stop"),
        ("a cat, number 2", "you", "flagged: is a refusal"),
    ]
    table = draw("images", images="images/cats", view="captions").data_editor[0]
    assert list(table.value["image"]) == ["0.png", "1.png", "2.png", "3.png"]
