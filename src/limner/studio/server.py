"""Starting the studio: what must be there, where it listens, who may come in."""

import errno
import importlib.util
import os
import secrets
import socket
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadUsage
from limner.studio.gate import LOCAL, Gate
from limner.studio.workspace import ENVIRONMENT, Workspace

FOLDER = Path(__file__).parent
UPLOAD_MEGABYTES = 512
"""Of one file that a browser sends."""


@dataclass(frozen=True, kw_only=True)
class StudioOptions:
    """How a studio is started."""

    workspace: Path
    host: str = "127.0.0.1"
    port: int = 8501
    """0 takes any that is free."""
    demo: bool = False
    """Whether to lay the demo's images into the workspace."""
    browser: bool = True
    """Whether to open the browser."""


def serve(options: StudioOptions, write_line: Callable[[str], object]) -> None:
    """Serve the studio until it is stopped.

    Args:
        options: See there.
        write_line: Takes the lines for the person who started it.

    Raises:
        BadUsage: Streamlit is not installed, the port is taken, or the workspace cannot be written to.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise BadUsage("The studio needs Streamlit, which is not installed: pip install 'limner[studio]'")
    workspace = Workspace(options.workspace)
    workspace.require_writable()
    port = _free_port(options.host, options.port)
    numbers = workspace.jobs.go_on()
    if options.demo:
        from limner.studio.demo import lay_out

        lay_out(workspace)
    is_local = options.host in LOCAL
    token = "" if is_local else secrets.token_urlsafe(32)
    url = f"http://{'127.0.0.1' if is_local else _reachable(options.host)}:{port}/"
    write_line(f"Studio:    {url}{f'?token={token}' if token else ''}")
    write_line(f"Workspace: {workspace.root}")
    if numbers:
        write_line(f"Jobs that go on waiting: {', '.join(map(str, numbers))}")
    write_line("Stop it with Ctrl+C. What trains goes on.")
    os.environ[ENVIRONMENT] = str(workspace.root)
    _run(options, port, token, LOCAL if is_local else ())


def _run(options: StudioOptions, port: int, token: str, hosts: tuple[str, ...]) -> None:
    import streamlit
    from starlette.middleware import Middleware

    middleware: Any = Middleware(Gate, token=token, hosts=hosts)  # pyright: ignore[reportArgumentType]
    app = streamlit.App(FOLDER / "entry" / "__main__.py", middleware=[middleware])
    app.run(
        config={
            **_theme(),
            "server.address": options.host,
            "server.port": port,
            "server.headless": not options.browser or bool(token),
            "server.fileWatcherType": "none",
            "server.maxUploadSize": UPLOAD_MEGABYTES,
            "server.enableCORS": True,
            "server.enableXsrfProtection": True,
            "browser.gatherUsageStats": False,
            "client.toolbarMode": "minimal",
        }
    )


def _theme() -> dict[str, Any]:
    """The theme's values by the dotted names of Streamlit's options."""
    theme = tomllib.loads((FOLDER / "theme.toml").read_text())["theme"]
    values = {f"theme.{key}": value for key, value in theme.items() if not isinstance(value, dict)}
    for mode in ("light", "dark"):
        values |= {f"theme.{mode}.{key}": value for key, value in theme[mode].items()}
    return values


def _free_port(host: str, port: int) -> int:
    """The port, if it is free; one that is for 0.

    Raises:
        BadUsage: It is taken, or the host is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        if os.name == "posix":  # a port that was left a moment ago is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                reason = "taken" if error.errno == errno.EADDRINUSE else "not allowed"
                raise BadUsage(
                    f"Port {port} of {host} is {reason}. Choose another with --port (0: any free one)."
                ) from error
            raise BadUsage(
                f"--host {host} is no address of this machine: {error.strerror or error}. Use 127.0.0.1, or "
                "0.0.0.0 for all of its addresses."
            ) from error
        return probe.getsockname()[1]


def _reachable(host: str) -> str:
    """A name by which others reach this machine, for the address that is printed."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    return socket.gethostname()
