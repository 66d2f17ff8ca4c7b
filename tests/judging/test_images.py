import json

import numpy as np
from PIL import Image

from limner.generation.settings import Settings
from limner.judging.images import ImageTable, opened
from limner.judging.request import JudgeOptions, request_of
from limner.run_folder import RunDir
from small import Told, generated

OPTIONS = JudgeOptions(strengths=(1.0,), seeds=(0, 1))


def pixels(path) -> np.ndarray:
    return np.asarray(opened(path)).astype(int)


def test_an_image_is_generated_once_and_is_what_generate_makes(run, tmp_path):
    told = Told()
    request = request_of(run, OPTIONS)
    table = ImageTable(request)
    due = table.due()
    assert len(due) == request.count == 3 * 2 * 2
    assert table.fill(due, told) is not None and not ImageTable(request).due()
    assert told.counts["Generating"] == [12, 12] and "s an image: about" in told.text
    assert table.fill([], told) is None
    (image,) = [item for item in due if item.step == 4 and item.seed == 1 and item.line.prompt == "zorb: a"]
    (made,) = generated(run, tmp_path, "zorb: a", settings=Settings(steps=2, seed=1, lora_scale=1.0))
    assert abs(pixels(made) - pixels(image.path)).max() <= 1  # it was computed in a batch
    with Image.open(image.path) as picture:
        record = json.loads(picture.text["limner"])  # pyright: ignore[reportAttributeAccessIssue]
    assert (record["prompt"], record["seed"], record["steps"]) == ("zorb: a", 1, 2)
    assert [lora["trained_steps"] for lora in record["loras"]] == [4]


def test_images_of_a_batch_are_those_made_one_by_one(run, monkeypatch):
    request = request_of(run, OPTIONS)
    table = ImageTable(request)
    table.fill(table.due(), Told())
    paths = [image.path for image in table.images.values()]
    together = [pixels(path) for path in paths]
    for path in paths:
        path.unlink()
    monkeypatch.setattr("limner.generation.pipeline.BATCH_PIXELS", 1)
    table.fill(table.due(), Told())
    assert all(abs(pixels(path) - before).max() <= 1 for path, before in zip(paths, together, strict=True))
    base = [pixels(image.path) for image in table.images.values() if image.step == 0]
    late = [pixels(image.path) for image in table.images.values() if image.step == 4]
    assert max(abs(one - other).max() for one, other in zip(base, late, strict=True)) > 2


def test_only_what_changed_is_due_again(run):
    table = ImageTable(request_of(run, OPTIONS))
    table.fill(table.due(), Told())
    more = ImageTable(request_of(run, JudgeOptions(strengths=(0.5, 1.0), seeds=(0, 1))))
    assert {(image.step, image.strength) for image in more.due()} == {(2, 0.5), (4, 0.5)}
    folder = RunDir(run)
    folder.step_lora_path(2).write_bytes(folder.step_lora_path(4).read_bytes())
    assert {image.step for image in ImageTable(request_of(run, OPTIONS)).due()} == {2}
    larger = ImageTable(request_of(run, JudgeOptions(strengths=(1.0,), seeds=(0, 1), size=(64, 32))))
    assert len(larger.due()) == 12


def test_an_image_may_be_opened_small(tmp_path):
    Image.new("RGBA", (80, 40), (9, 9, 9, 255)).save(tmp_path / "a.png")
    small = opened(tmp_path / "a.png", 20)
    assert (small.size, small.mode) == ((20, 10), "RGB") and opened(tmp_path / "a.png").size == (80, 40)
