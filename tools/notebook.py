"""Writes notebooks/limner.ipynb from notebooks/limner.py, without outputs.

``python tools/notebook.py``; ``make format`` runs it, and a test fails while the two differ.
"""

from pathlib import Path

import jupytext
import nbformat

SCRIPT = Path(__file__).resolve().parents[1] / "notebooks" / "limner.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")


def notebook() -> nbformat.NotebookNode:
    """The notebook of the script. Cells are named by their order, so that it is the same every time."""
    book = jupytext.read(SCRIPT)
    book.metadata.pop("jupytext", None)
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:02}"
    nbformat.validate(book)
    return book


def text() -> str:
    """The file."""
    return nbformat.writes(notebook()) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(text(), encoding="utf-8")
