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


def test_a_caller_is_heard_between_two_steps_and_elsewhere_at_once():
    wanted = []
    stop = Interrupt(lambda: bool(wanted))
    assert not stop.asked and not stop.due()
    wanted.append(True)
    assert stop.asked and stop.due()
    with stop.patient():
        assert stop.asked and not stop.due()
        with stop.breakable():
            assert stop.due()
            raise Stopped("by the bar of what may be broken off")
        assert stop.asked and not stop.due()


def test_where_nothing_can_be_lost_a_caller_stops_the_breakable_as_well():
    with pytest.raises(Stopped, match="at once"), Interrupt(lambda: True).breakable():
        raise Stopped("at once")


def test_signals_are_heard_within_its_with_statement_alone_however_often_that_is_entered():
    before = signal.getsignal(signal.SIGINT)
    stop = Interrupt()
    for _ in range(2):
        with stop, stop.patient():
            assert signal.getsignal(signal.SIGINT) != before
        assert signal.getsignal(signal.SIGINT) == before
