import signal

import pytest

from limner.errors import Stopped
from limner.training.interrupt import Interrupt
from messages import raises


def test_asked_twice_it_does_not_wait():
    with pytest.raises(Stopped), Interrupt() as stop, stop.patient():
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        signal.raise_signal(signal.SIGINT)


def test_the_first_signal_is_noted_while_patient_and_stops_at_once_elsewhere():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as stop:
        with stop.patient():
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked
    with raises(Stopped), Interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_breakable_ends_at_the_first_signal_and_the_rest_goes_on_to_its_end():
    with Interrupt() as stop:
        with stop.patient():
            with stop.breakable():
                signal.raise_signal(signal.SIGTERM)
                pytest.fail("the signal was waited for")
            assert stop.asked
        with pytest.raises(KeyboardInterrupt), stop.patient(), stop.breakable():
            signal.raise_signal(signal.SIGTERM)


def test_where_nothing_can_be_lost_the_breakable_stops_it_all():
    with pytest.raises(Stopped), Interrupt() as stop:
        with stop.breakable():
            signal.raise_signal(signal.SIGINT)
        pytest.fail("nobody would have looked at what was asked")
