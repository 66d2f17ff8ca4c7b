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
