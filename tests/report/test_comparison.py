import re

import pytest

from limner.report.comparison import comparison

ROWS = [
    {"step": step, "seconds": seconds, "bytes": step * 10**9}
    for step, seconds in enumerate([9.0, 5.0, 2.0, 2.0, 3.0], 1)
]
CUDA = {"device": {"kind": "cuda"}, "reserved_bytes": 4 * 10**9, "seconds_per_step": 1.0}


def causes(sizes):
    """In the phase that takes the most."""
    return {"peak_bytes": {"load": 1, "train": 4}, "causes": {"load": {"weights": 9e9}, "train": sizes}}


def text(html):
    return re.sub("<[^>]+>", " ", html)


def widths(html):
    return [float(width) for width in re.findall(r"width:([\d.]+)%", html)]


def test_memory_and_time_stand_beside_the_plan():
    html = comparison(
        CUDA | causes({"activations": 3 * 10**9, "adapter": 2 * 10**9, "<b>": 10**9}), ROWS, None
    )
    words = text(html)
    assert "Memory of the GPU, at most" in words and "5.0 GB (+25%)" in words
    assert "activations 3.0 GB, LoRA weights 2.0 GB, &lt;b&gt; 1.0 GB" in words
    assert "2 s (+100%)" in words, "the first steps are slower and no part of the median"
    assert "5 steps" in words and "21 s (+320%)" in words
    assert widths(html) == [80.0, 100.0, 50.0, 100.0, 23.8, 100.0]


def test_of_a_processor_the_process_is_compared_as_the_run_does_it():
    plan = {"device": {"kind": "cpu"}, "reserved_bytes": 10**6}
    assert comparison(plan, ROWS, None) == ""
    assert "Memory of the process" in comparison(plan, ROWS, 4 * 10**9)


def test_many_causes_are_summed_up():
    sizes = {f"cause {number}": number * 10**9 for number in range(10)}
    words = text(comparison(CUDA | causes(sizes), ROWS, None))
    assert "cause 9 9.0 GB" in words and "cause 3 " not in words and "others 6.0 GB" in words


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"device": 3},
        {"causes": 3, "peak_bytes": []},
        {"seconds_per_step": "x", "reserved_bytes": -1},
        CUDA,
    ],
)
@pytest.mark.parametrize("rows", [[], [{"step": 1}], [{"step": 1, "bytes": "x", "seconds": None}]])
def test_without_either_there_is_nothing(plan, rows):
    assert comparison(plan, rows, None) == ""
