import json
import shutil
from types import SimpleNamespace
from typing import Any

from PIL import Image

import limner
from limner.errors import BadData
from limner.events import Message, ProgressMade
from limner.judging.judge import _training_images, judge
from limner.judging.request import JudgeOptions
from limner.recipe.schema import Recipe
from limner.run_folder import RunDir
from messages import raises
from small import Told


def test_a_run_is_judged_and_judged_again_without_new_images(run, clip):
    told, options = Told(), JudgeOptions(strengths=(0.5, 1.0), seeds=(0, 1), encoders=(clip,))
    report = judge(run, options, told)
    folder = RunDir(run)
    assert report.images == report.new_images == 5 * 2 * 2 and report.encoder == "clip"
    assert told.lines[0] == (
        "Judging steps 2 and 4 at 0.5, 1, 1 prompt with the trigger, 1 without it, 2 seeds: 20 images."
    )
    record = json.loads(folder.judge_path.read_text())
    assert [(cell["step"], cell["strength"]) for cell in record["cells"]] == [
        (0, 0.0),
        (2, 0.5),
        (2, 1.0),
        (4, 0.5),
        (4, 1.0),
    ]
    for cell in record["cells"]:
        assert list(cell) == ["step", "strength", "likeness", "prompt", "leak", "variety", "score"]
        assert all(list(cell[name]) == ["mean", "low", "high"] for name in cell if name[:2] != "st")
    assert abs(record["cells"][0]["leak"]["mean"]) < 1e-6 < record["cells"][4]["leak"]["mean"]
    assert record["recommendation"]["reason"] == report.recommendation.reason
    assert all((run / image["path"]).is_file() for image in record["images"]) and len(record["images"]) == 20
    assert "Likeness, prompt-following and leak by step" in folder.report_path.read_text()
    with Image.open(run / record["sheet"]) as sheet:
        assert sheet.width > 3 * 128
    events = []
    second = limner.judge(run, strengths=[0.5, 1.0], seeds=2, encoders=clip, on_event=events.append)
    assert second.new_images == 0 and second.cells == report.cells
    lines = [event.text for event in events if isinstance(event, Message)]
    assert "of which 20 are there" in lines[0]
    assert {event.label for event in events if isinstance(event, ProgressMade)} == {"Looking"}


def test_what_is_not_measured_is_told(run, tmp_path):
    from encoders import save_dino

    told = Told()
    options = JudgeOptions(
        steps=(4,),
        strengths=(1.0,),
        seeds=(0,),
        prompts=("zorb",),
        encoders=(str(save_dino(tmp_path / "d")),),
    )
    report = judge(run, options, told)
    assert list(report.cells[1]) == ["step", "strength", "likeness", "score"]
    for words in ("the encoder has no text tower", "no prompt lacks the trigger", "there is one seed"):
        assert words in told.text


def test_likeness_is_to_the_images_of_all_sets(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / name / f"{name}.png")
        Image.new("L", (64, 64), 255).save(tmp_path / name / f"{name}-mask.png")
    sets = [{"images": str(tmp_path / name), "trigger": name} for name in ("cats", "dogs")]
    recipe = Recipe(base="glyph", data={"sets": sets, "masks": "sidecar"})
    request: Any = SimpleNamespace(recipe=recipe, run=RunDir(tmp_path / "run"))
    assert [path.name for path in _training_images(request)] == ["cats.png", "dogs.png"]
    shutil.rmtree(tmp_path / "dogs")
    with raises(BadData):
        _training_images(request)


def test_training_images_that_are_gone_are_told(run, tmp_path, clip):
    recipe = RunDir(run).recipe_path
    shutil.copytree(run.parent / "run", tmp_path / "other")
    text = recipe.read_text()
    photos = next(line for line in text.splitlines() if line.startswith("images"))
    recipe.write_text(text.replace(photos, f'images = "{tmp_path / "gone"}"'))
    with raises(BadData):
        judge(run, JudgeOptions(encoders=(clip,)), Told())
