from itertools import product

import numpy as np
from PIL import Image

from limner.generation import grid
from limner.generation.grid import Cell, write_grid


def cells_of(folder, steps, strengths, seeds):
    cells = {}
    for number, (step, strength, seed) in enumerate(product(steps, strengths, seeds)):
        path = folder / f"{number}.png"
        Image.new("RGB", (130, 130), (number * 20, 0, 0)).save(path)
        cells[Cell(step, strength, seed)] = path
    return cells


def laid_out(monkeypatch, folder, *axes):
    """Row labels, column labels, and the red of each picture."""
    pages = []

    def sheet(rows, row_labels, column_labels):
        reds = [[None if image is None else image.getpixel((0, 0))[0] // 20 for image in row] for row in rows]
        pages.append((row_labels, column_labels, reds))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(grid, "sheet", sheet)
    write_grid(folder, "a fox", cells_of(folder, *axes))
    return pages[0]


def test_strengths_make_the_columns_steps_and_seeds_the_rows(monkeypatch, tmp_path):
    rows, columns, reds = laid_out(monkeypatch, tmp_path, (100, 200), (0.5, 1.0), (1, 2))
    assert columns == ["strength 0.5", "strength 1"]
    assert rows == [f"a fox, step {step}, seed {seed}" for step in (100, 200) for seed in (1, 2)]
    assert reds == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_of_one_strength_the_steps_make_the_columns(monkeypatch, tmp_path):
    rows, columns, reds = laid_out(monkeypatch, tmp_path, (100, 200), (1.0,), (1, 2))
    assert (rows, columns) == (["a fox, seed 1", "a fox, seed 2"], ["step 100", "step 200"])
    assert reds == [[0, 2], [1, 3]]


def test_seeds_alone_stand_side_by_side(monkeypatch, tmp_path):
    assert laid_out(monkeypatch, tmp_path, (None,), (1.0,), (1, 2)) == (
        ["a fox"],
        ["seed 1", "seed 2"],
        [[0, 1]],
    )


def test_the_grid_shows_the_pictures_and_overwrites_none(tmp_path):
    cells = cells_of(tmp_path, (None,), (0.0, 1.0), (1,))
    first, second = (write_grid(tmp_path, "a fox", cells) for _ in range(2))
    assert (first.name, second.name) == ("grid-a-fox.png", "grid-a-fox-2.png")
    with Image.open(first) as image:
        colours = {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {(0, 0, 0), (20, 0, 0)} <= colours
