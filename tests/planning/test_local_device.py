import json
import os
import stat
from dataclasses import replace

import pytest

from limner.errors import BadRecipe, BadUsage
from limner.planning import local_device as room
from limner.planning.devices import SPARE, Rates
from limner.planning.local_device import (
    LocalGpu,
    constants_path,
    device_for,
    gpu,
    keep_rates,
    measured_rates,
    present,
)
from limner.recipe.schema import Limits
from messages import raises

GB = 2**30


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Give this machine a driver that says what a test wants."""

    def says(text: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return says


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setattr(room, "QUERY", ("no-such-driver",))


def test_free_memory_is_read_from_the_driver_not_from_the_name(driver):
    driver("NVIDIA GeForce RTX 4090, 24564, 20000")
    device = device_for(Limits())
    assert device.name == "NVIDIA GeForce RTX 4090"
    assert device.memory == 24564 * 2**20
    assert device.free == 20000 * 2**20 - SPARE
    assert device.reserve == device.memory - device.free
    assert device.rates.gemm["bf16"] > 1e14


def test_the_first_visible_card_is_the_one(driver, monkeypatch):
    driver("NVIDIA H100 80GB HBM3, 81559, 80000\nNVIDIA L4, 23034, 22000")
    assert gpu() == LocalGpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, 80000 * 2**20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device_for(Limits()).name == "NVIDIA L4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu() is None


def test_each_process_of_a_launcher_has_its_own_card(driver, monkeypatch):
    driver("NVIDIA H100 80GB HBM3, 81559, 80000\nNVIDIA L4, 23034, 22000")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_for(Limits()).name == "NVIDIA L4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert device_for(Limits()).name == "NVIDIA H100 80GB HBM3"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert gpu() is None


@pytest.mark.parametrize(("text", "status"), [("No devices were found", 6), ("", 0), ("a, b, c", 0)])
def test_a_driver_without_a_card_is_no_card(driver, text, status):
    driver(text, status)
    assert gpu() is None
    assert device_for(Limits()).kind == "cpu"


def test_a_limit_plans_for_the_same_card_with_other_memory(driver):
    driver("NVIDIA GeForce RTX 4090, 24564, 20000")
    device = device_for(Limits(vram="12GB", ram="64GB"))
    assert device.name == "NVIDIA GeForce RTX 4090"
    assert 11 * GB < device.free < device.memory == 12 * GB
    assert (device.ram, device.pinned) == (64 * GB, 32 * GB)


@pytest.mark.usefixtures("no_driver")
def test_without_a_card_a_size_stands_for_a_typical_one_and_nothing_for_the_processor():
    assert device_for(Limits(vram="24GB")).name == "RTX 4090"
    assert device_for(Limits(), card="3060").memory == round(0.98 * 12 * GB)
    assert device_for(Limits(vram="8GB"), card="4060 ti").memory == 8 * GB
    processor = device_for(Limits())
    assert processor.kind == "cpu"
    assert 0 < processor.free < processor.memory
    assert device_for(Limits(ram="4GB")).free == 4 * GB


def test_a_card_that_nobody_knows_is_told_with_those_that_are():
    with raises(BadUsage):
        device_for(Limits(), card="Voodoo 2")


def test_a_word_too_many_is_no_card_but_a_typo_told_with_those_near_it():
    with raises(BadUsage):
        device_for(Limits(), card="4090 laptp")
    assert device_for(Limits(), card="NVIDIA RTX 4090 24GB Founders Edition").name == "RTX 4090"


def test_a_new_card_is_taken_for_one_of_its_size():
    device = present(LocalGpu("NVIDIA RTX 9090", 24 * GB, 23 * GB))
    assert device.name == "NVIDIA RTX 9090"
    assert "not in the table" in device.source
    assert "RTX 4090" in device.source


def test_bf16_is_refused_where_there_is_none():
    old = present(LocalGpu("Tesla T4", 16 * GB, 15 * GB))
    with raises(BadRecipe):
        old.computes("bf16")


def test_rates_that_were_measured_are_used_from_then_on():
    device = present(LocalGpu("NVIDIA GeForce RTX 4090", 24 * GB, 23 * GB))
    one = {"fp32": 1.0, "bf16": 2.0}
    rates = Rates(gemm=one, attention=one, attention_backward=one, traffic=3.0, copy=4.0, expand={"nf4": 5.0})
    path = keep_rates(device, rates, {"torch": "2.7"})
    assert path == constants_path(device.name)
    table = device.rates
    filled = {name: {**getattr(table, name), **one} for name in ("gemm", "attention", "attention_backward")}
    assert measured_rates(device).rates == replace(rates, eight=table.eight, **filled)
    assert "measured on this machine" in measured_rates(device).source
    path.write_text("{")
    assert measured_rates(device) == device
    kept = json.loads(keep_rates(device, rates, {}).read_text())
    path.write_text(json.dumps(kept | {"version": kept["version"] - 1}))
    assert measured_rates(device).rates == device.rates, "launches meant something else"
    path.write_text(json.dumps(kept | {"rates": {"gemm": 1}}))
    assert measured_rates(device) == device


def test_the_capability_of_a_card_that_is_not_in_the_table_is_asked_of_the_driver(driver):
    new, known = LocalGpu("NVIDIA RTX 9090", 24 * GB, 23 * GB), LocalGpu("Tesla T4", 16 * GB, 15 * GB)
    driver("13.1")
    assert present(new).capability == (13, 1)
    assert present(known).capability == (7, 5)
    driver("[N/A]")
    assert present(new).capability is None


def test_compiling_is_planned_where_it_can_be_done(tmp_path, monkeypatch):
    card = LocalGpu("NVIDIA GeForce RTX 4090", 24 * GB, 23 * GB)
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "Python.h").touch()
    there = {"triton": object(), "include": tmp_path, "gcc": "/usr/bin/gcc"}
    monkeypatch.setattr(room, "find_spec", lambda name: there.get(name))
    monkeypatch.setattr(room.sysconfig, "get_path", lambda name: str(there[name]))
    monkeypatch.setattr(room.shutil, "which", lambda name: there.get(name))
    monkeypatch.setattr(room.sys, "platform", "linux")
    assert present(card).compiles
    for what, lacks in (("triton", None), ("gcc", None), ("include", tmp_path / "none")):
        with monkeypatch.context() as inside:
            inside.setitem(there, what, lacks)
            assert not present(card).compiles, what
    with monkeypatch.context() as inside:
        inside.setenv("TORCH_COMPILE_DISABLE", "1")
        assert not present(card).compiles
    monkeypatch.setitem(there, "gcc", None)
    monkeypatch.setenv("CC", "/opt/cc")
    assert present(card).compiles


def test_a_card_in_no_table_is_planned_by_what_nvidias_library_tells(driver, monkeypatch):
    """Quadro RTX 8000: Turing, 4608 cores at 2100 MHz, 384 bits at 7001 MHz."""
    answers = {
        "Init": None,
        "Shutdown": None,
        "DeviceGetHandleByIndex": 0,
        "DeviceGetMaxPcieLinkGeneration": 3,
        "DeviceGetMaxPcieLinkWidth": 16,
        "DeviceGetCudaComputeCapability": (7, 5),
        "DeviceGetNumGpuCores": 4608,
        "DeviceGetMaxClockInfo": 0,
        "DeviceGetMemoryBusWidth": 384,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(room.pynvml, f"nvml{name}", lambda *_, answer=answer: answer)
    clocks = {room.pynvml.NVML_CLOCK_SM: 2100, room.pynvml.NVML_CLOCK_MEM: 7001}
    monkeypatch.setattr(room.pynvml, "nvmlDeviceGetMaxClockInfo", lambda _, kind: clocks[kind])
    device = present(LocalGpu("Quadro RTX 8000", 48 * GB, 47 * GB))
    assert device.capability == (7, 5)
    assert "bf16" not in device.rates.gemm, "Turing has none"
    assert device.rates.gemm["fp16"] == pytest.approx(0.72 * 72 * 1024 * 2.1e9)
    assert device.rates.traffic == pytest.approx(0.75 * 672e9, rel=0.01)
    assert device.rates.copy == pytest.approx(0.75 * 15.76e9)
    assert "its driver tells" in device.source
