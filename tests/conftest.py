"""What every test stands on: no network, no cache of the user, one thread."""

import os
import socket
from pathlib import Path

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: sums then do not depend on the cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest

LOCAL = ("127.", "localhost", "::1", "0.0.0.0")
_connect = socket.socket.connect


def _connect_locally(self: socket.socket, address: object) -> None:
    host = address[0] if isinstance(address, tuple) else ""
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(host).startswith(LOCAL):
        raise RuntimeError(f"a test asked for the network: {address}")
    _connect(self, address)  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _connect_locally)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests of a process, so that the bundled base's text is encoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, session_cache: Path) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(session_cache))
