import threading

import limner
from limner import api, results
from limner.results import asker_of


def test_what_makes_images_is_part_of_the_front_door():
    for name in ("generate", "instant", "judge"):
        assert getattr(limner, name) is getattr(api, name) is getattr(results, name)
        assert name in limner.__all__


def test_a_call_is_stopped_by_an_event_or_by_a_function():
    event = threading.Event()
    by_event = asker_of(event)
    assert by_event is not None and not by_event()
    event.set()
    assert by_event() and asker_of(None) is None
    answer = asker_of(lambda: True)
    assert answer is not None and answer()
