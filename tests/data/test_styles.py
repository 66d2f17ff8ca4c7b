from pathlib import Path

import pytest

from limner.data.folder import Example
from limner.data.styles import StyleOrder, hold_out_styles, others_of, styles_of
from limner.data.views import View
from limner.errors import BadData
from messages import raises


def example(style: str, number: int, caption: str = "") -> Example:
    path = Path(style) / f"{number}.png"
    return Example(path, f"{style}-{number}", 64, 64, (caption or f"thing {number}",))


def views(*sizes: int) -> list[View]:
    """A view of each picture of so many styles."""
    return [
        View(one, (64, 64), (0, 0, 64, 64), flip=False, caption=one.captions[0])
        for style, count in enumerate(sizes)
        for one in (example(f"s{style}", number) for number in range(count))
    ]


def order(data: list[View], **more) -> StyleOrder:
    return StyleOrder(data, **{"batch": 4, "group": 2, "references": (1, 2, 4), "seed": 0, **more})


@pytest.mark.parametrize("sizes", [(5, 6, 7), (2, 2), (2, 9, 3)])
def test_a_group_paints_one_style_and_looks_at_other_pictures_of_it(sizes):
    data = views(*sizes)
    counts = set()
    for step in range(40):
        samples = order(data).step(step)
        assert [sample.position for sample in samples] == list(range(4 * step, 4 * step + 4))
        counts |= {len(sample.references) for sample in samples}
        assert len({len(sample.references) for sample in samples}) == 1
        for first, second in (samples[:2], samples[2:]):
            assert first.references == second.references
            members = [first.view_index, second.view_index, *first.references]
            assert len({data[index].example.path.parent for index in members}) == 1
            assert not {first.view_index, second.view_index} & set(first.references)
    assert counts == {1, 2, 4}


def test_it_is_a_function_of_seed_and_step_and_shows_every_style_equally_often():
    data = views(4, 9, 5)
    first, again, other = order(data), order(data), order(data, seed=1)
    assert [first.step(n) for n in (7, 3)] == [again.step(n) for n in (7, 3)]
    assert [first.step(n) for n in range(4)] != [other.step(n) for n in range(4)]
    groups = [samples[0] for step in range(3) for samples in (first.step(step)[:2], first.step(step)[2:])]
    shown = [data[sample.view_index].example.path.parent.name for sample in groups]
    assert sorted(shown) == ["s0", "s0", "s1", "s1", "s2", "s2"]


def test_references_with_the_targets_caption_are_passed_over():
    ones = [example("s0", number, "cat" if number < 5 else "dog") for number in range(6)]
    data = [View(one, (64, 64), (0, 0, 64, 64), flip=False, caption=one.captions[0]) for one in ones]
    for step in range(20):
        for sample in order(data, batch=1, group=1, references=(1,)).step(step):
            captions = [data[index].caption for index in (sample.view_index, *sample.references)]
            assert captions in (["cat", "dog"], ["dog", "cat"])


def test_the_static_part_is_trained_without_references():
    stream = order(views(4, 4), static_steps=2)
    assert [bool(stream.step(step)[0].references) for step in range(4)] == [False, False, True, True]


def test_styles_are_held_out_whole_and_stay_so_as_others_come():
    data = [view.example for view in views(*[3] * 12)]
    folders = hold_out_styles(data, 3)
    assert len(folders) == 3 and hold_out_styles(data, 0) == frozenset()
    more = [*data, *(example(f"t{style}", number) for style in range(4) for number in range(3))]
    assert len(folders & hold_out_styles(more, 3)) >= 1 and folders <= set(styles_of(more))


def test_a_measured_picture_has_the_others_of_its_style_beside_it():
    data = views(3, 4)
    rows = others_of(data, 10, 2)
    assert rows[0] == (11, 12) and rows[1] == (10, 12)
    assert all(10 + number not in references for number, references in rows.items())
    assert all(13 <= row < 17 for number in range(3, 7) for row in rows[number])


def test_what_is_no_set_of_styles_is_told():
    with raises(BadData):
        styles_of([example("s0", 0), example("s1", 0), example("s1", 1)])
    with raises(BadData):
        hold_out_styles([view.example for view in views(3, 3)], 2)
