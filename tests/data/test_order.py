from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.data.folder import Example
from limner.data.order import (
    MIN_IMAGES,
    SHARE,
    Order,
    Pace,
    SampledView,
    held_out,
    micro_batches,
    passes,
    whole_ratio,
)
from limner.data.views import Scale, View, buckets, views
from limner.errors import BadData, BadRecipe
from messages import raises

SCALES = (Scale(buckets(64, multiple=16)),)
SHAPES = [(100, 100), (160, 100), (100, 160)]


def made(
    shapes: list[int], repeats: list[int] | None = None, *, flip=False, dropout=False, captions=("a", "b")
):
    examples = [
        Example(Path(f"{at}.jpg"), str(at), *SHAPES[shape], captions, (repeats or [1] * len(shapes))[at])
        for at, shape in enumerate(shapes)
    ]
    return views(examples, scales=SCALES, flip=flip, dropout=dropout)


def portions(draws, found, largest: int = 99) -> list[list[SampledView]]:
    """The micro-batches of a step in one process."""
    return micro_batches([draws], found, [Pace(largest)])[0]


def paths(order: Order, found: tuple[View, ...], positions: range) -> list[str]:
    return [str(found[order.draw(position).view_index].example.path) for position in positions]


folders = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=14)


@settings(max_examples=60)
@given(folders, st.integers(1, 6), st.integers(0, 2**64 - 1))
def test_an_epoch_shows_every_image_as_often_as_its_repeats(folder, batch, seed):
    found = made([shape for shape, _ in folder], [repeats for _, repeats in folder])
    order = Order(found, batch=batch, seed=seed)
    count = sum(repeats for _, repeats in folder)
    assert order.images_per_epoch == count
    wanted = Counter({f"{at}.jpg": repeats for at, (_, repeats) in enumerate(folder)})
    for epoch in range(4):
        assert Counter(paths(order, found, range(epoch * count, (epoch + 1) * count))) == wanted


@settings(max_examples=60)
@given(folders, st.integers(1, 6), st.integers(0, 99))
def test_steps_are_whole_batches_and_mostly_of_one_size(folder, batch, seed):
    found = made([shape for shape, _ in folder], [repeats for _, repeats in folder])
    order = Order(found, batch=batch, seed=seed)
    steps = [order.step(step) for step in range(12)]
    assert [draw.position for step in steps for draw in step] == list(range(12 * batch))
    per_size = Counter()
    for shape, repeats in folder:
        per_size[shape] += repeats
    possible = sum(count // batch for count in per_size.values())
    pure = Counter(
        step[0].position // order.images_per_epoch
        for step in steps
        if len(portions(step, found)) == 1
        and step[0].position // order.images_per_epoch == step[-1].position // order.images_per_epoch
    )
    whole_epochs = 12 * batch // order.images_per_epoch
    assert all(pure[epoch] >= possible - 1 for epoch in range(whole_epochs))


def test_runs_begin_where_steps_begin_in_every_epoch():
    found = made([0] * 9 + [1] * 5)
    order = Order(found, batch=4, seed=3)
    mixed = sum(len(portions(order.step(step), found)) > 1 for step in range(7 * 14 // 4))
    assert mixed <= 7


@settings(max_examples=30)
@given(folders, st.integers(1, 5), st.integers(0, 9), st.lists(st.integers(0, 500), min_size=1, max_size=6))
def test_a_step_does_not_depend_on_those_asked_before(folder, batch, seed, asked):
    found = made([shape for shape, _ in folder], flip=True, dropout=True)
    fresh = {step: Order(found, batch=batch, seed=seed, caption_dropout=0.3).step(step) for step in asked}
    used = Order(found, batch=batch, seed=seed, caption_dropout=0.3)
    assert {step: used.step(step) for step in reversed(asked)} == fresh


def test_seeds_and_epochs_differ():
    found = made([0] * 12)
    first = paths(Order(found, batch=2, seed=0), found, range(24))
    assert first[:12] != first[12:]
    assert first != paths(Order(found, batch=2, seed=1), found, range(24))


def test_the_draws_never_change():
    order = Order(made([0, 1, 0, 2, 0], flip=True, dropout=True), batch=2, seed=7, caption_dropout=0.5)
    assert [draw.view_index for step in (0, 1, 2, 1000) for draw in order.step(step)] == [
        3,
        29,
        10,
        20,
        13,
        29,
        12,
        2,
    ]


def test_flips_variants_and_dropout_are_drawn_evenly():
    found = made([0, 1], flip=True, dropout=True)
    order = Order(found, batch=1, seed=5, caption_dropout=0.25)
    drawn = Counter(found[order.draw(position).view_index] for position in range(8000))
    share = {key: sum(n for view, n in drawn.items() if view.caption == key) / 8000 for key in ("", "a", "b")}
    assert share[""] == pytest.approx(0.25, abs=0.02)
    assert share["a"] == pytest.approx(0.375, abs=0.02) and share["b"] == pytest.approx(0.375, abs=0.02)
    assert sum(n for view, n in drawn.items() if view.flip) / 8000 == pytest.approx(0.5, abs=0.02)
    flipped = sum(n for view, n in drawn.items() if view.flip and view.caption == "a")
    assert flipped / 8000 == pytest.approx(0.1875, abs=0.02)


def test_a_place_in_the_epoch_favours_nobody():
    found = made([0] * 5)
    order = Order(found, batch=1, seed=1)
    firsts = Counter(str(found[order.draw(5 * epoch).view_index].example.path) for epoch in range(3000))
    assert len(firsts) == 5
    assert all(count / 3000 == pytest.approx(0.2, abs=0.03) for count in firsts.values())


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_never_and_always_dropped(dropout):
    found = made([0, 1, 2], dropout=True)
    order = Order(found, batch=3, seed=0, caption_dropout=dropout)
    captions = {found[draw.view_index].caption for step in range(30) for draw in order.step(step)}
    assert captions == ({""} if dropout else {"a", "b"})


def test_micro_batches_hold_one_size_each_and_keep_all():
    found = made([0, 1, 0, 1, 0, 2, 0])
    draws = Order(found, batch=7, seed=0).step(3)
    micros = portions(draws, found, 2)
    assert sorted(draw for micro in micros for draw in micro) == draws
    assert all(len({found[draw.view_index].size for draw in micro}) == 1 for micro in micros)
    assert sorted(map(len, micros)) == [1, 2, 2, 2]
    assert len(portions(draws, found)) == 3


def test_equal_processes_take_turns():
    found = made([0, 1, 0, 1, 0, 2, 0])
    draws = Order(found, batch=7, seed=0).step(3)
    micros = portions(draws, found, 2)
    paces = [Pace(2, 0.1)] * 3
    assert micro_batches([draws], found, paces) == [micros[number::3] for number in range(3)]


def test_a_process_takes_images_by_its_speed_and_at_most_what_fits_it():
    found = made([0] * 8)
    draws = Order(found, batch=8, seed=0).step(0)
    large, small = micro_batches([draws], found, [Pace(2, 0.5), Pace(1, 0.8)])
    assert [len(micro) for micro in large] == [2, 2, 2] and [len(micro) for micro in small] == [1, 1]


@settings(max_examples=60)
@given(
    folders,
    st.lists(st.tuples(st.integers(1, 4), st.floats(0.01, 9)), min_size=1, max_size=5),
    st.integers(0, 99),
)
def test_every_image_of_a_step_is_one_process(folder, paces, seed):
    found = made([shape for shape, _ in folder])
    paces = [Pace(*pace) for pace in paces]
    order = Order(found, batch=6, seed=seed)
    first, second = order.step(0), order.step(1)
    shares = micro_batches([first, second], found, paces)
    micros = [micro for share in shares for micro in share]
    assert sorted(draw for micro in micros for draw in micro) == first + second
    for pace, share in zip(paces, shares, strict=True):
        assert all(len(micro) <= pace.micro_batch for micro in share)
    for micro in micros:
        assert len({(found[draw.view_index].size, draw in first) for draw in micro}) == 1


def test_long_runs_far_out_are_cheap():
    order = Order(made([at % 3 for at in range(1000)]), batch=4, seed=0)
    assert len(order.step(10**12)) == 4


def test_what_means_nothing_is_refused():
    found = made([0])
    with raises(BadData):
        Order((), batch=1, seed=0)
    with raises(BadRecipe):
        Order(found, batch=0, seed=0)
    with raises(BadRecipe):
        Order(found, batch=1, seed=0, caption_dropout=1.5)
    with raises(BadRecipe):
        Order(found, batch=1, seed=0, caption_dropout=0.1)
    with raises(BadRecipe):
        portions([], found, 0)


def test_numpys_words_are_the_published_ones():
    # Random123's known answer for philox4x64-10, counter 0, key 0; NumPy counts up before it draws.
    before = np.full(4, 2**64 - 1, np.uint64)
    words = np.random.Philox(key=np.zeros(2, np.uint64), counter=before).random_raw(4).tolist()
    assert words == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]


@pytest.mark.parametrize(
    ("images", "wished", "count"),
    [
        (MIN_IMAGES - 1, None, 0),
        (MIN_IMAGES, None, MIN_IMAGES // SHARE),
        (55, None, 5),
        (100_000, None, 64),
        (100_000, 500, 500),
        (5, 2, 2),
        (100, 0, 0),
    ],
)
def test_how_many_are_held_out(images, wished, count):
    assert held_out(images, wished) == count


def test_an_epoch_has_each_image_at_each_resolution_by_its_draws_and_a_step_one_size():
    scales = (Scale(buckets(64, multiple=16), 2), Scale(buckets(128, multiple=16)))
    examples = [Example(Path(f"{at}.jpg"), str(at), 200, 200, ("a",), 1 + at % 2) for at in range(6)]
    found = views(examples, scales=scales, flip=False, dropout=False)
    order = Order(found, batch=3, seed=4)
    assert order.images_per_epoch == 3 * 9
    drawn = [found[order.draw(position).view_index] for position in range(27)]
    counts = Counter((view.example.sha256, view.size) for view in drawn)
    assert counts == {
        (str(at), size): (1 + at % 2) * draws
        for at in range(6)
        for size, draws in (((64, 64), 2), ((128, 128), 1))
    }
    assert all(len(portions(order.step(step), found)) == 1 for step in range(9))


def test_whole_numbers_stand_to_each_other_as_shares():
    assert whole_ratio([0.5, 0.25, 0.25]) == (2, 1, 1) and whole_ratio([7.0]) == (1,)
    assert whole_ratio([0.33, 0.33, 0.34]) == (1, 1, 1)
    assert whole_ratio([0.3 / 7, 0.7 / 13]) == (4, 5)  # 28 of 93 draws: 30 %


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=4))
def test_shares_are_right_to_two_percent(weights):
    numbers = whole_ratio(weights)
    assert all(number >= 1 for number in numbers) and min(numbers) <= 100
    total, whole = sum(weights), sum(numbers)
    assert all(
        number / whole == pytest.approx(weight / total, rel=0.02)
        for number, weight in zip(numbers, weights, strict=True)
    )


def test_processes_that_gather_together_compute_as_often_and_what_is_spare_counts_nothing():
    shares = [[["a"], ["b"]], [["c"]], []]
    assert list(passes(shares, 1, alike=False)) == [(["c"], 1.0)] and not [*passes(shares, 2, alike=False)]
    passes_of = [list(passes(shares, process, alike=True)) for process in range(3)]
    assert passes_of[0] == [(["a"], 1.0), (["b"], 1.0)]
    assert passes_of[1] == [(["c"], 1.0), (["a"], 0.0)] and passes_of[2] == [(["a"], 0.0)] * 2
