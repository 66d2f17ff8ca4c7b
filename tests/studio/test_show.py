"""What several pages show."""

from pathlib import Path

from PIL import Image

from limner.studio.show import state_line, thumbnail, time_left
from limner.studio.workspace import Workspace


def test_a_thumbnail_is_small_and_made_once(workspace: Workspace, cats: Path) -> None:
    photo = cats / "large.jpg"
    Image.effect_noise((2000, 1500), 60).convert("RGB").save(photo)
    first = thumbnail(photo, workspace)
    assert len(first) < 40_000 and len(list(workspace.thumbnails.iterdir())) == 1
    assert thumbnail(photo, workspace) == first


def test_states_and_times_are_words() -> None:
    assert state_line("failed") == ":material/error: failed"
    assert state_line("odd") == ":material/help: odd"
    assert (time_left(None), time_left(75)) == ("", "1 min 15 s left")
