from dataclasses import replace
from pathlib import Path

from limner.models.registry import registered_bases
from limner.planning.cards import known
from limner.planning.describe_survey import survey_lines
from limner.planning.devices import of_card
from limner.planning.survey import BaseEstimate, Survey


def described(*estimates, images_unknown=False):
    device = of_card(known("RTX 3060"))
    return survey_lines(Survey(device, 7, images_unknown, estimates), Path("cats"))


def test_a_base_that_does_not_fit_says_what_it_needs_and_nothing_else():
    big = BaseEstimate(
        base=registered_bases()["qwen-image"], choice=None, total=None, fetched=57_000_000_000, card=8
    )
    rows = described(big, replace(big, base=registered_bases()["sdxl"], fetched=0, card=None))
    assert rows[0] == "Bases on a 12 GB RTX 3060, 7 images:"
    assert rows[3].split("  ")[0] == "qwen-image"
    assert "needs 8 GB" in rows[3] and "57.0 GB" in rows[3]
    assert rows[4].split()[:3] == ["sdxl", "no", "here"]
    assert any("No open base trains here" in row for row in rows)
