"""The verb ``studio``: its options reach the server."""

from pathlib import Path

import pytest

from limner.cli.app import app
from limner.studio import server


def test_options_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[server.StudioOptions] = []
    monkeypatch.setattr(server, "serve", lambda options, _: calls.append(options))
    line = ["studio", "--workspace", str(tmp_path), "--port", "0", "--demo", "--no-browser"]
    app(args=line, standalone_mode=False)
    assert calls == [server.StudioOptions(workspace=tmp_path, port=0, demo=True, browser=False)]
