import os
import signal
import sys

import pytest

from limner.cli.session import session
from limner.errors import Stopped


def test_what_libraries_print_stays_off_stdout_with_json(capsys, monkeypatch):
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        monkeypatch.delenv(f"{library}_VERBOSITY", raising=False)
    with session(as_json=True) as reporter:
        sys.stdout.write("a library that prints\n")
        reporter.line("a line")
    with session(as_json=False):
        sys.stdout.write("the verb itself\n")
    out, err = capsys.readouterr()
    assert out == "the verb itself\n"
    assert "a library that prints" in err and "a line" in err
    assert os.environ["DIFFUSERS_VERBOSITY"] == "critical"


def test_a_signal_ends_in_one_line():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="run the same command again"), session(as_json=False):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
