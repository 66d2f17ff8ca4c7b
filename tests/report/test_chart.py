import math
import time
from xml.etree import ElementTree

import pytest

from limner.report.chart import HEIGHT, MAX_POINTS, NARROW, curve, curves, series, smooth, ticks


def rows(losses, **more):
    return [{"step": step, "loss": loss, **more} for step, loss in enumerate(losses, 1)]


def drawn(svg, kind):
    line = next(line for line in ElementTree.fromstring(svg).iter("polyline") if line.get("class") == kind)
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def test_nothing_is_drawn_of_nothing():
    assert curve([]) == ""
    assert curve([{"step": 1, "loss": 0.5}]) == ""
    assert curve([{"step": 1}, {"step": 2, "loss": "0.5"}, {"step": 3, "loss": None}]) == ""


def test_falling_loss_falls_to_the_right():
    points = drawn(curve(rows([3.0, 2.0, 1.0])), "mean")
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # downwards is greater in SVG


def test_the_best_held_out_loss_is_marked():
    svg = curve(
        [*rows([1.0] * 9), *({"step": s, "held_out": v} for s, v in [(0, 0.9), (4, 0.3125), (8, 0.5)])]
    )
    assert "best 0.3125 at step 4" in svg
    tree = ElementTree.fromstring(svg)
    best = next(dot for dot in tree.iter("circle") if dot.get("class") == "best")
    assert (float(best.get("cx")), float(best.get("cy"))) == drawn(svg, "held")[1]


def test_held_out_losses_alone_are_a_chart():
    svg = curve([{"step": 0, "held_out": 1.0}, {"step": 5, "held_out": 0.5}])
    assert 'class="held"' in svg
    assert 'class="raw"' not in svg


def test_a_spike_does_not_flatten_the_rest():
    losses = [1 - step / 200 for step in range(100)]
    losses[50] = 1e6
    heights = [y for _, y in drawn(curve(rows(losses)), "raw")]
    assert max(heights) - min(heights[:50]) > 50 or max(heights) > 200


def test_long_runs_are_thinned_and_quick():
    start = time.process_time()
    svg = curve(rows([math.sin(step / 500) + 2 for step in range(50_000)]))
    assert time.process_time() - start < 2
    assert len(drawn(svg, "raw")) <= MAX_POINTS + 2
    assert len(svg) < 60_000


@pytest.mark.parametrize(
    "losses",
    [[0.0, 0.0], [5, 5, 5], [-1.0, -2.0], [1e-12, 2e-12], [1e11, 1.0], [0.5, math.nan, 0.25, math.inf]],
)
def test_odd_numbers_make_a_whole_drawing(losses):
    svg = curve(rows(losses))
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_impossible_rows_are_not_drawn():
    assert (
        series(
            [{"step": 10**400, "loss": 1}, {"step": 2, "loss": True}, {"step": 3, "loss": 10**400}], "loss"
        )
        == []
    )
    assert series([{"step": 2, "loss": 1}, {"step": 1, "loss": 2.5}], "loss") == [(1.0, 2.5), (2.0, 1.0)]


def test_smoothing_does_not_lag():
    straight = [(float(step), 5 - step / 100) for step in range(200)]
    for (_, raw), (_, mean) in list(zip(straight, smooth(straight), strict=True))[10:-10]:
        assert mean == pytest.approx(raw)
    assert smooth([]) == []
    assert smooth([(1.0, 2.0)]) == [(1.0, 2.0)]


def test_ticks_are_round():
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.13, 0.57) == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert ticks(0, 1500, 6) == [0, 500, 1000, 1500]


def test_a_phone_gets_a_narrow_chart_with_letters_of_the_same_size():
    assert curves([]) == ""
    html = curves(rows([3.0, 2.0, 1.0]), "a")
    wide, narrow = html.split('<div class="narrow">')
    assert wide.startswith('<div class="broad"><svg') and f'viewBox="0 0 {NARROW} {HEIGHT}"' in narrow
    assert html.count('id="a"') == html.count('id="a-narrow"') == 1
    assert max(x for x, _ in drawn(narrow.removesuffix("</div>"), "mean")) < NARROW
