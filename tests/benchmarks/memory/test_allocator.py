import pytest
from benchmarks.memory.allocator import MIB, Full, least_capacity, replay
from hypothesis import given
from hypothesis import strategies as st

from limner.planning.tracker import Event


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    events: list[Event] = []
    alive: dict[int, int] = {}
    for number in range(draw(st.integers(0, 60))):
        if alive and draw(st.booleans()):
            key = draw(st.sampled_from(sorted(alive)))
            events.append((key, -alive.pop(key)))
        else:
            alive[number] = draw(st.sampled_from([1, 700, MIB, 3 * MIB, 11 * MIB, 64 * MIB + 5]))
            events.append((number, alive[number]))
    return events


def peak(events: list[Event]) -> int:
    alive = most = 0
    for _, size in events:
        alive += size
        most = max(most, alive)
    return most


@given(histories(), st.booleans())
def test_it_reserves_what_is_alive_and_not_much_more(events: list[Event], expandable: bool) -> None:  # noqa: FBT001
    seen = replay(events, expandable=expandable)
    assert peak(events) <= seen.allocated <= seen.reserved
    assert seen.allocated <= peak(events) + 60 * MIB
    assert seen.reserved % (2 * MIB) == 0


@given(histories())
def test_one_history_twice_reserves_no_more_than_once(events: list[Event]) -> None:
    left = {key for key, size in events if size > 0} - {key for key, size in events if size < 0}
    sizes = {key: size for key, size in events if size > 0}
    whole = [*events, *((key, -sizes[key]) for key in left)]
    again = [(key + 1000, size) for key, size in whole]
    assert replay([*whole, *again]).reserved <= replay(whole).reserved * 2
    large = sum(
        size > MIB for _, size in whole
    )  # each may come whole out of a free block that is a little larger
    assert abs(replay(whole).allocated - replay([*whole, *again]).allocated) <= large * MIB


def test_small_requests_share_two_mebibytes_and_large_ones_are_rounded() -> None:
    assert replay([(1, 1), (2, 600)]).reserved == 2 * MIB
    assert replay([(1, 1), (2, 600)]).allocated == 512 + 1024
    assert replay([(1, 3 * MIB)]).reserved == 20 * MIB
    assert replay([(1, 11 * MIB)]).reserved == 12 * MIB
    assert replay([(1, 11 * MIB)], expandable=True).reserved == 20 * MIB


def test_a_large_block_with_little_left_is_not_split() -> None:
    events = [(1, 20 * MIB), (1, -20 * MIB), (2, 20 * MIB - 512 * 1024)]
    assert replay(events).allocated == 20 * MIB
    assert replay([(1, 20 * MIB), (1, -20 * MIB), (2, 12 * MIB)]).reserved == 20 * MIB


def test_expandable_segments_have_fewer_holes() -> None:
    events = [(1, 30 * MIB), (2, MIB * 2), (1, -30 * MIB), (3, 34 * MIB), (3, -34 * MIB), (4, 38 * MIB)]
    assert replay(events, expandable=True).reserved <= replay(events).reserved


def test_what_is_cached_is_given_back_before_giving_up() -> None:
    events = [(1, 40 * MIB), (1, -40 * MIB), (2, 50 * MIB)]
    free = replay(events)
    tight = replay(events, capacity=50 * MIB)
    assert (free.reserved, tight.retries) == (90 * MIB, 1)
    assert 50 * MIB <= least_capacity(events) <= 66 * MIB
    with pytest.raises(Full, match="52428800 bytes"):
        replay([(1, 50 * MIB)], capacity=40 * MIB)


def test_a_large_block_is_split_when_more_than_a_mebibyte_is_left() -> None:
    freed = [(1, 20 * MIB), (1, -20 * MIB)]
    assert replay([*freed, (2, 19 * MIB)]).allocated == 20 * MIB
    both = [*freed, (2, 19 * MIB - 512), (3, MIB + 512)]
    assert (replay(both).allocated, replay(both).reserved) == (20 * MIB, 20 * MIB)
    assert replay([(1, 19 * MIB)]).allocated == 19 * MIB + MIB, "a new segment by the same rule"


def test_a_small_block_and_a_page_that_grows_are_split_down_to_512_bytes() -> None:
    small = [(1, MIB), (2, MIB - 512), (3, 512)]
    assert (replay(small).allocated, replay(small).reserved) == (2 * MIB, 2 * MIB)
    large = [(1, 20 * MIB - 512)]
    assert replay(large, expandable=True).allocated == 20 * MIB - 512
    assert replay([(1, MIB), (2, MIB - 511)]).allocated == 2 * MIB, "nothing is left to split off"


def test_a_free_end_of_the_segment_that_grows_is_part_of_what_it_grows_by() -> None:
    events = [(1, 30 * MIB), (2, 25 * MIB)]  # two pages leave 10 MiB free, so one more page is enough
    assert replay(events, expandable=True).reserved == 60 * MIB
    assert replay(events, expandable=True).allocated == 55 * MIB
    whole = [*events, (1, -30 * MIB), (2, -25 * MIB), (3, 60 * MIB)]
    assert replay(whole, expandable=True).reserved == 60 * MIB, "and all of it is one block again"
    full = [(1, 20 * MIB), (2, 15 * MIB), (1, -20 * MIB), (2, -15 * MIB), (3, 40 * MIB)]
    assert replay(full, expandable=True).reserved == 40 * MIB
    grown = [*full[:-1], (3, 50 * MIB)]
    assert replay(grown, expandable=True).reserved == 60 * MIB, "joined blocks are the end that grows"


def test_a_segment_of_which_half_is_in_use_is_not_given_back() -> None:
    half = [(1, 40 * MIB), (1, -40 * MIB), (2, 12 * MIB), (3, 30 * MIB)]
    with pytest.raises(Full):
        replay(half, capacity=60 * MIB)
    behind = [(1, 40 * MIB), (1, -40 * MIB), (2, 12 * MIB), (3, 12 * MIB), (2, -12 * MIB), (4, 30 * MIB)]
    with pytest.raises(Full):
        replay(behind, capacity=60 * MIB)
    emptied = [*half[:-1], (2, -12 * MIB), (3, 50 * MIB)]
    assert replay(emptied, capacity=60 * MIB).retries == 1
