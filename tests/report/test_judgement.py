import re
from xml.etree import ElementTree

import pytest

from limner.report.judgement import judgement


def interval(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def record(strengths=(0.4, 1.0, 1.2)):
    cells = [{"step": 0, "strength": 0, "likeness": interval(0.3), "leak": interval(0.0)}]
    cells += [
        {"step": step, "strength": strength, "likeness": interval(0.8), "leak": interval(strength / 10)}
        for step in (20, 40)
        for strength in strengths
    ]
    return {"encoder": "the <b>judge", "cells": cells}


def points(html, kind):
    svg = re.search(r"<svg.*?</svg>", html, re.DOTALL)[0]
    line = next(line for line in ElementTree.fromstring(svg).iter("polyline") if line.get("class") == kind)
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def test_likeness_and_leak_are_drawn_by_step_at_the_strength_next_to_1():
    html, note = judgement(record())
    assert note.startswith("Strength 1; ") and "the <b>judge" in note and "<b>" not in html
    assert len(points(html, "likeness")) == len(points(html, "leak")) == 3
    (first, _, last), heights = points(html, "leak"), [y for _, y in points(html, "likeness")]
    assert first[1] > last[1] > heights[-1], "greater is higher up"
    assert ">prompt-following<" not in html, "what was not measured has no line"
    assert html.count("<polygon") == 2 * 2, "intervals, in two sizes of the chart"


def test_the_nearest_strength_is_drawn():
    assert judgement(record((0.4, 0.8)))[1].startswith("Strength 0.8; ")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"cells": 5},
        {"cells": [5, {}, {"step": 1}]},
        {"cells": [{"step": 1, "strength": 1.0, "leak": interval(0.5)}]},
        {"cells": [{"step": step, "strength": 1.0, "leak": {"mean": "x"}} for step in (1, 2)]},
        {"cells": [{"step": step, "strength": 1.0, "leak": {"mean": float("nan")}} for step in (1, 2)]},
    ],
)
def test_of_less_than_two_steps_nothing_is_drawn(value):
    assert judgement(value) == ("", "")
