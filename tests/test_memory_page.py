"""The table of the page on memory is what the command says."""

import pytest

import memory_page

LINES = memory_page.PAGE.read_text(encoding="utf-8").splitlines()


def test_the_table_has_a_row_for_every_base_size_and_card():
    start, end = LINES.index(memory_page.BEGIN), LINES.index(memory_page.END)
    rows = LINES[start + 1 : end]
    assert tuple(rows[:2]) == memory_page.HEAD
    expected = [
        (base, str(size), f"{memory} GB, {card}")
        for base, (_, sizes) in memory_page.BASES.items()
        for size in sizes
        for memory, card in memory_page.CARDS.items()
    ]
    assert [tuple(cell.strip() for cell in row.split("|")[1:4]) for row in rows[2:]] == expected


@pytest.mark.slow
@pytest.mark.parametrize("base", ["flux-dev", "sdxl"])  # the others take as long, by the same code
def test_the_table_is_what_the_command_says(base):
    _, sizes = memory_page.BASES[base]
    for memory in memory_page.CARDS:
        assert memory_page.row(base, sizes[-1], memory) in LINES
