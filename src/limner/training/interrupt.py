"""Ctrl-C, the polite kill, a closed terminal, and a caller who wants to stop: when a run may be left."""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from limner.errors import Stopped

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""What ends a run: Ctrl-C, a polite kill, a closed terminal, and Ctrl-Break of Windows."""
HANGUPS = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))


@contextmanager
def polite() -> Iterator[None]:
    """Within this, SIGTERM and a closed terminal are what Ctrl-C is: a ``KeyboardInterrupt``."""
    before = _handled(SIGNALS[1:], signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handled(numbers: Iterable[int], handler: Any) -> dict[int, Any]:
    """Have a function handle signals; returns what did before. One that is ignored, as by nohup, stays so."""
    before: dict[int, Any] = {}
    for number in numbers:
        if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
            continue
        try:
            before[number] = signal.signal(number, handler)
        except ValueError:  # only the main thread may; elsewhere the caller stops us
            break
    return before


class Asked(Protocol):
    """What other programs ask of a run: ``status.Requests``."""

    def stops(self) -> bool:
        """Whether the run shall end."""
        ...

    def pending(self) -> list[str]:
        """Of "save", "export" and "sample", what was not done yet."""
        ...

    def answer(self, kind: str) -> None:
        """It is done."""
        ...


class Interrupt:
    """Signals and a caller's wish: at once while nothing can be lost, between two steps in training.

    What may take long and can be made up for later is broken off even then. A second signal never waits.
    Signals reach it within its ``with`` statement, which may be entered again, and in the main thread only.

    Args:
        should_stop: Whether the caller wants the work to end; works in every thread.
    """

    def __init__(self, should_stop: Callable[[], bool] | None = None) -> None:
        """See the class."""
        self.requests: Asked | None = None
        """What other programs ask of the run, where somebody listens for it."""
        self._should_stop = should_stop
        self._has_signal = False
        self._patient = False
        self._before: dict[int, Any] = {}
        self._console = ExitStack()

    def listen(self, requests: Asked) -> None:
        """Other programs may want the work to end, and may ask for more."""
        before, self.requests = self._should_stop, requests
        self._should_stop = lambda: requests.stops() or (before is not None and before())

    @property
    def asked(self) -> bool:
        """Whether the work shall end, be it now or between two steps."""
        return self._has_signal or (self._should_stop is not None and self._should_stop())

    def due(self) -> bool:
        """Whether the work shall end now, between two pieces of whatever is being done."""
        return self.asked and not self._patient

    def __enter__(self) -> "Interrupt":
        self._before = _handled(SIGNALS, self._ask)
        self._console.enter_context(closing_console(self._close))
        return self

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Within this, the first signal only sets ``asked``."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Within this, the first signal ends what is done here, and sets ``asked`` where ``patient``."""
        patient, self._patient = self._patient, False
        try:
            yield
        except KeyboardInterrupt:
            if not patient or self._has_signal:
                raise
            self._has_signal = True
        except Stopped:
            if not patient:  # else the loop sees the caller's wish as well
                raise
        finally:
            self._patient = patient

    def _ask(self, number: int, frame: Any) -> None:
        """A signal came. Of a closed terminal the shell and the system tell one after the other."""
        del frame
        hurries = self._has_signal and number not in HANGUPS
        if hurries or not self._patient:
            raise KeyboardInterrupt
        self._has_signal = True

    def _close(self) -> None:
        """The console is closing. Told in a thread of the system's, so that nothing can be broken off."""
        self._has_signal = True

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        self._console.close()
        if kind is KeyboardInterrupt:
            raise Stopped("Stopped. What was finished is kept; go on with the same command.") from None


CLOSING = (2, 5, 6)
"""CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT (Windows, ``wincon.h``)."""
PATIENCE = 30.0
"""Seconds that the handler holds the system up, which waits for 5 s when a window is closed."""

Handler = Callable[[int], bool]


class Console(Protocol):
    """What the system offers."""

    def add(self, handler: Handler) -> None:
        """Call ``handler`` with each control event, in a thread of its own."""
        ...

    def remove(self, handler: Handler) -> None:
        """Call it no more."""
        ...


class WindowsConsole:
    """``SetConsoleCtrlHandler`` of kernel32."""

    def __init__(self) -> None:
        """See the class."""
        self._routines: dict[Handler, Any] = {}

    def add(self, handler: Handler) -> None:
        """See ``Console``."""
        import ctypes

        kind: Any = getattr(ctypes, "WINFUNCTYPE")(ctypes.c_int, ctypes.c_uint)  # noqa: B009  Windows has it
        self._routines[handler] = kind(handler)  # kept, as the system holds no reference
        self._set(self._routines[handler], 1)

    def remove(self, handler: Handler) -> None:
        """See ``Console``."""
        self._set(self._routines.pop(handler), 0)

    def _set(self, routine: Any, add: int) -> None:
        import ctypes

        kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009
        kernel.SetConsoleCtrlHandler(routine, add)


@contextmanager
def closing_console(close: Callable[[], None], console: Console | None = None) -> Iterator[None]:
    """Within this, a console that closes calls ``close``, and the system waits until this is left.

    Args:
        close: Called in a thread of the system's.
        console: The system's; None: that of Windows, and nothing elsewhere, where a signal tells it.
    """
    if console is None:
        if sys.platform != "win32":
            yield
            return
        console = WindowsConsole()
    done = threading.Event()

    def handle(event: int) -> bool:
        if event not in CLOSING:
            return False  # Ctrl-C and Ctrl-Break come as signals
        close()
        done.wait(PATIENCE)
        return True

    console.add(handle)
    try:
        yield
    finally:
        done.set()
        console.remove(handle)
