"""What a plan offers, as changes of the recipe or another card."""

from typing import Any

import pytest

from limner.studio.alternatives import card_names, card_options, changes_of, hint


@pytest.mark.parametrize(
    ("text", "row", "changes", "card"),
    [
        ("batch 8 (--batch 8)", {"batch": 8}, {"train.batch": 8}, ""),
        ("--weights-precision 4bit", {}, {"limits.weights_precision": "4bit"}, ""),
        ("--resolution 512", {}, {"data.resolution": 512}, ""),
        ("--sample-every -1, and generate afterwards", {}, {"sample.every": -1}, ""),
        ("a card of 16 GB", {"change": 0.1}, {}, "16 GB"),
        ("64 GB of RAM (limits.ram)", {"change": -0.5}, {"limits.ram": "64GB"}, ""),
        ("32 GB of memory in the computer (limits.ram)", {}, {"limits.ram": "32GB"}, ""),
        ("weights bf16", {"change": 0.2}, {"limits.weights_precision": "16bit"}, ""),
        ("weights nf4", {"change": -0.2}, {"limits.weights_precision": "4bit"}, ""),
        ("weights nf4", {"change": 0.2}, {}, ""),
        ("no block swap", {"change": -0.2}, {}, ""),
        ("no block swap", {"change": -0.2, "fits": False, "reserved_bytes": 15 * 2**30}, {}, "24 GB"),
        ("no block swap", {"change": -0.2, "fits": False, "reserved_bytes": 90 * 2**30}, {}, ""),
    ],
)
def test_a_proposal_means_a_change(
    text: str, row: dict[str, Any], changes: dict[str, Any], card: str
) -> None:
    assert changes_of(text, row) == (changes, card)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights nf4", '("4bit")'),
        ("weights int8", '("8bit")'),
        ("no torch.compile", "by itself where that is faster"),
    ],
)
def test_where_no_key_says_it_the_page_says_what_to_do(text: str, words: str) -> None:
    assert words in hint(text)


def test_a_device_is_told_as_the_verb_knows_it() -> None:
    assert card_options("this machine") == []
    assert card_options("12 GB") == ["--vram", "12GB"] and "12 GB" in card_names()
    assert card_options("RTX 4090") == ["--card", "RTX 4090"] and "RTX 4090" in card_names()
