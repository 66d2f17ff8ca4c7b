import signal
import threading

import pytest

from limner.errors import Stopped
from limner.training import interrupt
from limner.training.interrupt import HANGUPS, SIGNALS, Interrupt, closing_console, polite
from messages import raises
from waiting import LONGEST


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """Give every signal its default action: under ``nohup`` the tests inherit an ignored SIGHUP."""
    handlers = {number: signal.getsignal(number) for number in HANGUPS}
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_that_ends_a_run_is_noted_first(number):
    before = signal.getsignal(number)
    with Interrupt() as stop, stop.patient():
        signal.raise_signal(number)
        assert stop.asked
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", HANGUPS)
def test_a_closed_terminal_may_be_told_twice_and_hurries_nobody(number):
    with Interrupt() as stop, stop.patient():
        for _ in range(3):
            signal.raise_signal(number)
        assert stop.asked
    with pytest.raises(KeyboardInterrupt), polite():
        signal.raise_signal(number)


@pytest.mark.parametrize("number", HANGUPS)
def test_under_nohup_a_closed_terminal_is_nothing(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with polite(), Interrupt() as stop, stop.patient():
            signal.raise_signal(number)
            assert not stop.asked
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


class Window:
    """A console that tests can close."""

    def __init__(self):
        self.handlers = []
        self.answers = []

    def add(self, handler):
        self.handlers.append(handler)

    def remove(self, handler):
        self.handlers.remove(handler)

    def send(self, event):
        """As the system does: in a thread of its own, which it joins before it ends the program."""
        (handler,) = self.handlers
        thread = threading.Thread(target=lambda: self.answers.append(handler(event)))
        thread.start()
        return thread


@pytest.mark.parametrize("event", [2, 5, 6])
def test_a_closing_console_is_held_up_until_the_work_is_left(event):
    window, calls = Window(), []
    called = threading.Event()
    with closing_console(lambda: (calls.append(event), called.set()), window):
        thread = window.send(event)
        assert called.wait(LONGEST)
        assert thread.is_alive() and not window.answers
    thread.join(LONGEST)
    assert (calls, window.answers, window.handlers) == ([event], [True], [])


@pytest.mark.parametrize("event", [0, 1])
def test_ctrl_c_and_ctrl_break_are_left_to_signals(event):
    window, calls = Window(), []
    with closing_console(lambda: calls.append(1), window):
        window.send(event).join(LONGEST)
    assert (calls, window.answers) == ([], [False])


def test_elsewhere_nothing_is_asked_of_the_system(monkeypatch):
    monkeypatch.setattr(interrupt.sys, "platform", "linux")
    monkeypatch.setattr(interrupt, "WindowsConsole", lambda: pytest.fail("there is none"))
    calls = []
    with closing_console(lambda: calls.append(1)):
        assert not calls


def test_a_run_hears_of_its_console_between_two_steps(monkeypatch):
    """As of a signal: noted while patient; the window closes once the run has saved and left."""
    window = Window()
    monkeypatch.setattr(interrupt, "closing_console", lambda close: closing_console(close, window))
    saved = []
    with pytest.raises(Stopped), Interrupt() as stop, stop.patient():
        thread = window.send(2)
        while not stop.asked:
            thread.join(0.01)
        assert thread.is_alive()
        saved.append("checkpoint")
        raise Stopped("Saved.")
    thread.join(LONGEST)
    assert (saved, window.answers) == (["checkpoint"], [True])
