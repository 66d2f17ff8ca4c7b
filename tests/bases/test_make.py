from pathlib import Path

import pytest

from limner.bases import make


def test_installing_replaces_the_models_and_keeps_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "package" / "glyph"
    for name in ("demo/mascot.png", "transformer/old.safetensors", "judge/old.json"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("old")
    monkeypatch.setattr(make, "embedded_bases", lambda: {"glyph": place})
    made, judge = tmp_path / "made", tmp_path / "judge"
    (made / "transformer").mkdir(parents=True)
    (made / "transformer" / "new.safetensors").write_text("new")
    (made / "model_index.json").write_text("{}")
    judge.mkdir()
    (judge / "judge.json").write_text("{}")
    assert make.install(made, judge) == place
    found = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    assert found == ["demo/mascot.png", "judge/judge.json", "model_index.json", "transformer/new.safetensors"]


def test_a_failing_step_stops_the_chain() -> None:
    with pytest.raises(make.subprocess.CalledProcessError):
        make.step("no_such_step")
