from pathlib import Path

import pytest

from importing.corpus import written
from limner.importing.book import Book
from limner.importing.counts import images, steps
from limner.importing.options import ForeignOption


@pytest.mark.parametrize(
    ("values", "batch", "count"),
    [
        (
            {"train_data_dir": "train", "max_train_epochs": 2},
            None,
            60,
        ),  # 10 repeats, by the folder
        ({"image_dir": "img", "num_repeats": 5, "epoch": 4, "train_batch_size": 2}, 2, 32),
        ({"image_dir": "img", "max_train_steps": 7, "num_train_epochs": 0}, None, 7),
        ({"image_dir": "img", "max_train_steps": 0, "num_train_epochs": 3}, None, 9),
        ({"image_dir": "img", "steps": 50, "batch_size": 2, "gradient_accumulation": 3}, 6, 50),
    ],
)
def test_epochs_and_repeats_become_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, object], batch: int | None, count: int
):
    monkeypatch.chdir(written(tmp_path))
    book = Book([ForeignOption(key, value) for key, value in values.items()])
    images(book)
    steps(book)
    assert book.changes["train.steps"] == count
    assert book.changes.get("train.batch") == batch
    assert book.options == []


def test_a_folder_of_class_images_is_the_prior():
    entries = {"datasets.0.image_dir": "cat", "datasets.1.image_dir": "cats", "datasets.1.is_reg": True}
    book = Book([ForeignOption(key, value) for key, value in entries.items()])
    images(book)
    assert book.changes == {"data.images": Path("cat"), "prior.images": Path("cats")}


def test_every_so_many_epochs_is_counted_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(written(tmp_path))
    values = {"image_dir": "img", "max_train_epochs": 9, "sample_every_n_epochs": 2, "save_every_n_epochs": 3}
    book = Book([ForeignOption(key, value) for key, value in values.items()])
    images(book)
    steps(book)
    assert (book.changes["sample.every"], book.changes["train.save_every"]) == (6, 9)


@pytest.mark.parametrize(
    ("unit", "every", "outcome"),
    [
        ("STEP", 20, "translated"),
        ("EPOCH", 60, "translated"),
        ("NEVER", None, "off"),
        ("MINUTE", None, "cannot be had"),
    ],
)  # fmt: skip
def test_intervals_of_one_trainer_have_units(unit: str, every: int | None, outcome: str):
    values = {"sample_after": 20, "sample_after_unit": unit, "batch_size": 1}
    book = Book([ForeignOption(key, value) for key, value in values.items()])
    book.facts |= {"trainer": "OneTrainer", "images": 3}
    steps(book)
    assert book.changes.get("sample.every") == every
    assert next(row.outcome for row in book.rows if row.key == "sample_after") == outcome


def test_repeats_of_simple_tuner_are_those_after_the_first(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"")
    options = [ForeignOption("0.instance_data_dir", str(tmp_path)), ForeignOption("0.repeats", 4)]
    book = Book(options, facts={"trainer": "SimpleTuner"})
    images(book)
    assert book.facts["images"] == 5
