import threading
import time

import pytest

from limner.training.prefetch import ROOM, THREADS, BackgroundPool


def test_what_is_made_ahead_comes_in_order_and_not_all_at_once():
    begun = []

    def make(item: int) -> int:
        begun.append(item)
        time.sleep(0.01 * (item % 3))
        return item * item

    with BackgroundPool(lambda _: None) as beside:
        made = beside.ahead(make, range(100))
        first = next(made)
        assert len(begun) <= ROOM + 1
        assert [first, *made] == [n * n for n in range(100)]


def test_what_is_left_behind_is_done_elsewhere_and_told_here():
    here, told, places = threading.get_ident(), [], []

    def work(item: int, more: int) -> int:
        places.append(threading.get_ident())
        return item + more

    with BackgroundPool(lambda value: told.append((value, threading.get_ident()))) as beside:
        for item in range(3 * ROOM):
            beside.behind(work, item, 1)
            assert item + 1 - len(told) <= ROOM
        beside.settle()
        assert told == [(item + 1, here) for item in range(3 * ROOM)]
        beside.behind(work, 7, 0)
    assert told[-1] == (7, here)
    assert here not in places


def test_a_failure_in_a_thread_is_raised_in_the_caller():
    def fail(item: int) -> int:
        raise OSError(f"no room for {item}")

    with pytest.raises(OSError, match="no room for 1"), BackgroundPool(lambda _: None) as beside:
        list(beside.ahead(fail, [1]))
    with pytest.raises(OSError, match="no room for 2"), BackgroundPool(lambda _: None) as beside:
        beside.behind(fail, 2)


def test_after_an_error_what_has_not_begun_is_dropped():
    done, dropped = [], threading.Event()

    def slow(item: int) -> None:
        dropped.wait(60)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), BackgroundPool(lambda _: None) as beside:
        for item in range(ROOM):
            beside.behind(slow, item)
        beside._pending[-1].add_done_callback(lambda _: dropped.set())
        raise KeyboardInterrupt
    assert len(done) <= THREADS
