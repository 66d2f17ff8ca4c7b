"""The script that drives a lent GPU: nothing that was measured is lost, whatever fails after it."""

import json
import subprocess
import sys
import time

import pytest

import outcome
from gpu import table
from gpu.cells import chosen

SAID = {"plan": {"micro_batch": 1}, "blocks": 4}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "predicted", lambda *_: {"seconds": 1.0, **SAID})
    monkeypatch.setattr(table, "matrix_rate", lambda **_: 1e12)
    monkeypatch.setattr(table, "prepare", lambda *_: None)
    monkeypatch.setattr(table, "lines", lambda _: [])
    monkeypatch.setattr(table, "notes", lambda _: [])
    return table.arguments(["--tiny", "--cells", "1", "3", "--sides", "limner", "--out", str(tmp_path)])


def kept(tmp_path):
    return json.loads((tmp_path / "gpu.json").read_text())["cells"]


def test_every_turn_is_kept_as_soon_as_it_is_over(asked, tmp_path, monkeypatch):
    seen = []

    def turn(*_):
        seen.append(len(kept(tmp_path)) if (tmp_path / "gpu.json").exists() else 0)
        if len(seen) == 4:
            raise KeyboardInterrupt
        if len(seen) == 2:
            raise subprocess.CalledProcessError(1, ["x"], stderr="a\nCUDA is gone\n")
        return {"step": 0.5}

    monkeypatch.setattr(table, "turn", turn)
    monkeypatch.setattr(table, "arguments", lambda: asked)
    with pytest.raises(KeyboardInterrupt):
        table.main()
    assert seen == [0, 1, 1, 2], "cells that were kept when each turn began"
    first, second = kept(tmp_path)
    assert [each.get("failed") for each in first["turns"]] == [None, "CUDA is gone"]
    assert len(second["turns"]) == 1


def test_time_that_is_over_stops_a_process_and_begins_none(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "GRACE", 0)
    with pytest.raises(subprocess.TimeoutExpired) as slow:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"], timeout=0.01, check=False)
    assert table.reason(slow.value) == "stopped: no time left"
    assert table.Sitting(asked, tmp_path).left is None and table.Sitting(asked, tmp_path, 0).left == 1.0
    late = table.Sitting(asked, tmp_path, time.monotonic() - 1)
    cell = chosen(["1"], small=True)[0]
    assert table.gradients(late, cell, SAID) == {"failed": "not begun: no time left"}
    result = {"predicted": SAID, "turns": []}
    table.turns(late, cell, result, lambda: None)
    assert {each["failed"] for each in result["turns"]} == {"not begun: no time left"}


def test_a_gradient_that_cannot_be_compared_says_why(asked, tmp_path, monkeypatch):
    cell = chosen(["1"], small=True)[0]
    monkeypatch.setattr(table.sys, "executable", "/bin/false")
    assert "failed" in table.gradients(table.Sitting(asked, tmp_path), cell, SAID)


def test_a_package_that_is_run_from_its_sources_has_no_version(monkeypatch):
    monkeypatch.setattr(outcome, "PACKAGES", ("torch", "not-installed-anywhere"))
    versions = outcome.device()["versions"]
    assert versions["torch"] and versions["not-installed-anywhere"] is None
