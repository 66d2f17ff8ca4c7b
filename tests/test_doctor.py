import builtins
import importlib
import importlib.metadata
import types
from collections import namedtuple
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from limner import doctor as room
from limner.doctor import Diagnosis, doctor, optional_packages, required
from limner.planning import local_device
from limner.planning.describe import duration
from limner.planning.local_device import LocalGpu
from limner.planning.survey import survey
from limner.reporter import Reporter
from limner.target import template

GB = 2**30
Usage = namedtuple("Usage", "total used free")


def found(name: str) -> Diagnosis:
    (one,) = [finding for finding in doctor() if finding.name == name]
    return one


@pytest.fixture(autouse=True)
def _a_healthy_machine(monkeypatch, tmp_path):
    """No real torch: the device is what a test says it is."""
    monkeypatch.setattr(room, "_device", lambda: Diagnosis("device", True, "CPU"))
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))


def fake_torch(**members):
    cuda = types.SimpleNamespace(is_available=lambda: False)
    mps = types.SimpleNamespace(is_available=lambda: False)
    version = types.SimpleNamespace(cuda=None, hip=None)
    torch = types.SimpleNamespace(
        cuda=cuda,
        backends=types.SimpleNamespace(mps=mps),
        version=version,
        get_num_threads=lambda: 2,
    )
    vars(torch).update(members)
    return torch


DEVICE = room._device  # kept from before the fixture replaces it


def device(monkeypatch, torch, *, driver: bool) -> Diagnosis:
    def import_module(name):
        if isinstance(torch, BaseException):
            raise torch
        return torch

    monkeypatch.setattr(room.importlib, "import_module", import_module)
    monkeypatch.setattr(room.shutil, "which", lambda name: name if driver else None)
    return DEVICE()


def test_what_is_needed_is_read_from_the_package_and_extras_are_not():
    needed = {requirement.name: str(requirement.specifier) for requirement in required()}
    assert needed["diffusers"].startswith(">=")
    assert {"torch", "transformers", "peft", "accelerate", "pydantic"} <= set(needed)
    assert not set(optional_packages()) & set(needed)


@pytest.mark.parametrize(
    ("version", "ok"),
    [("0.42", True), ("0.42.1", True), ("0.100.0+cpu", True), ("0.43.0.dev0", True), ("0.42.0rc1", False)],
)
def test_versions_are_compared_as_pip_compares_them(monkeypatch, version, ok):
    monkeypatch.setattr(room, "_installed", lambda name: version)
    assert room._package(Requirement("diffusers>=0.42")).ok is ok


def test_every_optional_package_is_brought_by_the_extra_that_is_named():
    lines = importlib.metadata.requires("limner") or []
    for package, (extra, _) in optional_packages().items():
        assert any(
            line.startswith(package) and f"extra == '{extra}'" in line.replace('"', "'") for line in lines
        )


def test_a_package_that_is_missing_or_old_is_told_with_the_command(monkeypatch):
    versions = {"peft": None, "diffusers": "0.1.0"}
    real = room._installed
    monkeypatch.setattr(room, "_installed", lambda name: versions[name] if name in versions else real(name))
    peft, diffusers = found("peft"), found("diffusers")
    assert (peft.ok, peft.detail) == (False, "not installed")
    assert peft.remedy.startswith('pip install "peft>=')
    assert diffusers.ok is False
    assert "0.1.0, " in diffusers.detail
    assert "--upgrade" in diffusers.remedy


def test_a_missing_extra_is_no_failure(monkeypatch):
    monkeypatch.setattr(room, "_installed", lambda name: None if name in optional_packages() else "99")
    extra = found("bitsandbytes")
    assert extra.ok and extra.optional
    assert extra.remedy == 'pip install "limner[gpu]"'


@pytest.mark.parametrize("driver", [True, False])
def test_what_is_worth_installing_depends_on_the_machine(monkeypatch, driver):
    monkeypatch.setattr(room, "_installed", lambda name: None if name in optional_packages() else "99")
    monkeypatch.setattr(room.shutil, "which", lambda name: name if driver else None)
    monkeypatch.setattr(local_device, "_driver_lines", lambda query: [])
    text = room.lines(doctor())
    assert "not installed" not in "\n".join(text)
    assert ("Worth installing:" in text) is driver
    position = text.index("Only when asked for:")
    assert any("limner[gpu]" in line for line in text[:position]) is driver
    commands = [line.split("    ")[0] for line in text[position + 1 :]]
    assert len(commands) == len(set(commands)), "a command stands there once"


def test_processes_that_hold_gpu_memory_are_named_with_their_size(monkeypatch):
    answer = ["4211, /usr/lib/firefox/firefox, 812", "99, C:\\games\\game.exe, 6144", "7, python, [N/A]", ""]
    monkeypatch.setattr(local_device, "_driver_lines", lambda query: answer)
    held = found("GPU memory in use")
    assert held.ok
    assert held.detail == "game.exe 6.0 GB (process 99), firefox 812 MB (process 4211)"
    assert held.remedy == "Close what you do not need before training."
    monkeypatch.setattr(local_device, "_driver_lines", lambda query: [])
    assert "GPU memory in use" not in [finding.name for finding in doctor()]


def test_the_first_line_says_what_this_machine_trains_or_what_is_in_the_way(monkeypatch):
    monkeypatch.setattr(local_device, "gpu", lambda: None)
    assert room.summary([Diagnosis("python", True, "3.12")]).startswith(
        "Ready. On this processor Limner trains glyph, the toy base: no GPU was found."
    )
    broken = [Diagnosis("torch", False, "not installed", "pip install torch"), Diagnosis("peft", True, "1")]
    assert room.summary(broken) == "Not ready to train: torch. What to do stands below."


def test_what_doctor_says_of_a_card_is_what_plan_says(monkeypatch):
    monkeypatch.setattr(local_device, "gpu", lambda: LocalGpu("NVIDIA GeForce RTX 4060", 8 * GB, 7 * GB))
    monkeypatch.setattr(local_device, "_ram", lambda: (32 * GB, 28 * GB))
    text = room.abilities()
    assert text.startswith("On your 8 GB card (NVIDIA GeForce RTX 4060) Limner trains ")
    names = ("sd15", "sdxl", "flux-dev")  # one that fits at ease, one that fits, one that is squeezed
    result = survey(lambda base: template({"base": base, "data.images": Path("-")}), Reporter(), names=names)
    assert len(result.estimates) == len(names)
    for row in result.estimates:
        if not row.base.toy:
            words = f"({duration(row.total.seconds)})" if row.total else "needs a card of"
            assert f"{row.base.name} {words}" in text


def test_a_disk_that_is_full_or_closed_is_told(monkeypatch, tmp_path):
    assert found("cache").ok
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(1, 1, 500_000_000))
    assert found("cache").remedy.startswith("Free 1.5 GB")
    monkeypatch.setattr(room.os, "access", lambda path, mode: False)
    assert "cannot be written" in found("cache").detail


def test_the_embedded_base_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("limner.bases"), "__path__", [str(tmp_path)])
    assert found("embedded base").remedy == "Install Limner again."
    (tmp_path / "glyph").mkdir()
    (tmp_path / "glyph" / "model_index.json").write_text("{}")
    assert found("embedded base") == Diagnosis("embedded base", True, "glyph, 2 B")


def test_a_gpu_is_named(monkeypatch):
    one = types.SimpleNamespace(name="NVIDIA X", total_memory=24_000_000_000)
    cuda = types.SimpleNamespace(
        is_available=lambda: True, get_device_properties=lambda index: one, device_count=lambda: 2
    )
    torch = fake_torch(cuda=cuda, version=types.SimpleNamespace(cuda="12.8", hip=None))
    assert device(monkeypatch, torch, driver=True).detail == "2 x NVIDIA X, 24.0 GB, torch for CUDA 12.8"
    torch = fake_torch(cuda=cuda, version=types.SimpleNamespace(cuda=None, hip="6.3"))
    assert "ROCm 6.3" in device(monkeypatch, torch, driver=False).detail


def test_a_gpu_that_torch_cannot_use_is_a_finding(monkeypatch):
    unused = device(monkeypatch, fake_torch(), driver=True)
    assert not unused.ok
    assert "built for CPUs" in unused.detail
    assert "--index-url" in unused.remedy
    assert device(monkeypatch, fake_torch(), driver=False).ok


def test_a_broken_torch_is_one_line(monkeypatch):
    broken = device(monkeypatch, OSError("libcudart.so: cannot open\nmore"), driver=False)
    assert (broken.ok, broken.detail) == (False, "torch cannot be loaded: libcudart.so: cannot open")


def test_the_doctor_needs_no_torch_to_tell_that_it_is_missing(monkeypatch):
    real = builtins.__import__

    def no_torch(name, *rest):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    assert found("python").ok
