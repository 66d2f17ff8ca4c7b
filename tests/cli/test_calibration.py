from dataclasses import replace

import pytest
import torch
import typer

from limner.cli import calibration
from limner.cli.calibration import calibrate_first, calibrate_link
from limner.errors import BadUsage
from limner.planning import calibrate, local_device
from limner.planning.cards import known
from limner.planning.devices import of_card
from limner.recipe.schema import Limits
from limner.reporter import Reporter


class Machine:
    """A GPU that was never measured, what is said about it, and whether it is measured."""

    def __init__(self, monkeypatch):
        card = known("RTX 4090")
        assert card is not None
        self.device, self.lines, self.measurements = of_card(card), [], 0
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        monkeypatch.delenv("LIMNER_CALIBRATE", raising=False)
        monkeypatch.setattr(local_device, "device_for", lambda limits: self.device)
        monkeypatch.setattr(calibrate, "calibrate", self._measure)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def _measure(self, limits, reporter):
        self.measurements += 1

    def begin(self, limits=None, *, as_json=False):
        reporter = Reporter(lambda event: self.lines.append(str(getattr(event, "text", event))))
        calibrate_first(limits or Limits(), reporter, as_json=as_json)
        return self.measurements


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_without_a_terminal_a_new_gpu_is_measured_and_said(machine):
    assert machine.begin() == 1
    assert "never been measured" in machine.lines[0] and "half a minute" in machine.lines[0]


def test_one_that_was_measured_is_not_measured_again(machine):
    machine.device = replace(machine.device, measured=True)
    assert machine.begin() == 0
    assert machine.lines == []


@pytest.mark.parametrize("name", ["WORLD_SIZE", "--json"])
def test_a_program_and_several_processes_are_told_how(machine, monkeypatch, name):
    if name == "WORLD_SIZE":
        monkeypatch.setenv(name, "2")
    assert machine.begin(as_json=name == "--json") == 0
    assert "limner plan --calibrate" in machine.lines[0]


def test_a_processor_is_left_alone_and_so_is_who_wants_none(machine, monkeypatch):
    assert machine.begin(Limits(device="cpu")) == 0
    monkeypatch.setenv("LIMNER_CALIBRATE", "never")
    assert machine.begin() == 0
    assert machine.lines == []


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked(machine, monkeypatch, answer):
    questions = []
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda text, **_: questions.append(text) or answer)
    assert machine.begin() == answer
    assert "Measure it now" in questions[0]


@pytest.fixture
def link(tmp_path, monkeypatch):
    """Has what is written here stand for the program that measures a link."""

    def write(script):
        (tmp_path / "fake_link.py").write_text(script)
        monkeypatch.setattr(calibration, "LINK", "fake_link")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("WORLD_SIZE", raising=False)

    return write


def test_the_link_between_processes_is_kept_with_the_rates_of_the_device(link):
    link("import os; print(2e9 if os.environ['RANK'] == '0' and os.environ['WORLD_SIZE'] == '3' else 0)")
    lines = []
    cpu = Limits(device="cpu")
    calibrate_link(cpu, 3, Reporter(lambda event: lines.append(str(getattr(event, "text", event)))))
    assert local_device.device_for(cpu).rates.link == 2e9
    assert "2 GB/s" in lines[0] and "3 processes" in lines[0]


def test_a_link_that_cannot_be_measured_is_one_line(link):
    link("import sys; sys.exit('no route to host')")
    with pytest.raises(BadUsage, match="no route to host"):
        calibrate_link(Limits(device="cpu"), 2, Reporter())
