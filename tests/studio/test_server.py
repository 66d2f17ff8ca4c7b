"""What must be there before the studio starts."""

import importlib.util
import socket
from pathlib import Path

import pytest

import messages
from limner.errors import BadUsage
from limner.studio import server
from limner.studio.gate import LOCAL
from limner.studio.server import StudioOptions, serve


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, tuple[str, ...]]]:
    """How the server would have been run: port, token, hosts."""
    calls: list[tuple[int, str, tuple[str, ...]]] = []
    monkeypatch.setattr(server, "_run", lambda _, port, token, hosts: calls.append((port, token, hosts)))
    monkeypatch.setenv("LIMNER_STUDIO_WORKSPACE", "")
    return calls


def test_a_studio_for_this_machine_wants_no_token(
    tmp_path: Path, runs: list[tuple[int, str, tuple[str, ...]]]
) -> None:
    lines: list[str] = []
    serve(StudioOptions(workspace=tmp_path, port=0), lines.append)
    ((port, token, hosts),) = runs
    assert (token, hosts) == ("", LOCAL)
    assert lines[0] == f"Studio:    http://127.0.0.1:{port}/"


def test_a_studio_for_others_prints_its_token_once(
    tmp_path: Path, runs: list[tuple[int, str, tuple[str, ...]]]
) -> None:
    lines: list[str] = []
    serve(StudioOptions(workspace=tmp_path, port=0, host="0.0.0.0"), lines.append)
    ((_, token, hosts),) = runs
    assert hosts == () and len(token) >= 32
    assert [token in line for line in lines].count(True) == 1
    assert all(token not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.usefixtures("runs")
def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BadUsage, match=f"Port {port} of 127.0.0.1 is taken. Choose another with --port"):
            serve(StudioOptions(workspace=tmp_path, port=port), lambda _: None)


@pytest.mark.usefixtures("runs")
def test_a_host_that_is_none_of_this_machine_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="--host 192.0.2.77 is no address of this machine"):
        serve(StudioOptions(workspace=tmp_path, port=0, host="192.0.2.77"), lambda _: None)


def test_streamlit_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with messages.raises(BadUsage):
        serve(StudioOptions(workspace=tmp_path), lambda _: None)


def test_the_theme_is_options_of_streamlit() -> None:
    from streamlit import config

    names = server._theme()
    assert names["theme.dark.primaryColor"].startswith("#")
    assert set(names) <= set(config._config_options_template)


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_buttons_and_text_can_be_read(mode: str) -> None:
    """Streamlit writes white on buttons of the primary colour, and that colour on the background."""
    theme = {key.rpartition(".")[2]: value for key, value in server._theme().items() if f".{mode}." in key}
    assert _contrast("#ffffff", theme["primaryColor"]) > 4
    assert _contrast(theme["primaryColor"], theme["backgroundColor"]) > 4
    assert _contrast(theme["textColor"], theme["secondaryBackgroundColor"]) > 7
