import subprocess
import sys
import threading

import pytest
import torch

from limner.errors import Stopped
from limner.recipe.schema import Limits
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training import monitor as module
from limner.training.monitor import (
    SPAN,
    WARM,
    Watch,
    device_lock,
    device_name,
    figures,
    held,
    held_on,
    loss_scale,
    overflow_lines,
    peak,
)
from waiting import LONGEST

GB = 10**9


def _steps(watch: Watch, seconds: float, count: int, held: int = 0) -> list[str]:
    return [line for _ in range(count) for line in watch.step(seconds, held)]


def test_a_run_as_planned_says_nothing() -> None:
    assert _steps(Watch("cuda", seconds=0.5, bytes=10 * GB), 0.6, 50, int(10.4 * GB)) == []


def test_a_run_without_a_plan_says_nothing_of_it() -> None:
    assert _steps(Watch("cpu"), 3.0, 50, 99 * GB) == []


def test_memory_above_the_plan_is_said_once_and_at_once() -> None:
    watch = Watch("cuda", bytes=10 * GB)
    assert watch.step(1, 10 * GB) == []
    (line,) = watch.step(1, 11 * GB)
    assert "11.0 GB in use at most, 10.0 GB planned (+10%)" in line
    assert _steps(watch, 1, 20, 12 * GB) == []


def test_slower_than_planned_asks_for_calibration() -> None:
    (line,) = _steps(Watch("cuda", seconds=0.5), 1.0, 40)
    assert "1 s, 0.5 s planned" in line
    assert "--calibrate" in line


def test_the_first_steps_may_be_slow() -> None:
    watch = Watch("cuda", seconds=1.0)
    assert _steps(watch, 60.0, WARM) == []
    assert _steps(watch, 1.0, 40) == []


def test_a_slow_down_is_told_with_what_to_look_for() -> None:
    watch = Watch("cuda", seconds=1.0)
    assert _steps(watch, 1.0, 20) == []
    (line,) = _steps(watch, 4.0, 20)
    assert "4 s now, 1 s at the start" in line
    assert "system memory fallback" in line
    assert "swap" in " ".join([*_steps(other := Watch("cpu"), 1.0, 20), *_steps(other, 4.0, 20)])


def test_a_single_slow_step_is_no_slow_down() -> None:
    watch = Watch("cpu")
    for _ in range(4):
        assert _steps(watch, 1.0, SPAN) == []
        assert watch.step(30.0, 0) == []


def test_the_peak_is_that_of_this_process() -> None:
    before = peak(torch.device("cpu"))
    tensor = torch.ones(before // 4)  # as many bytes again
    assert 1.5 * before < peak(torch.device("cpu")) < 3 * before + tensor.numel()


def test_what_is_held_now_falls_again() -> None:
    before = held(torch.device("cpu"))
    tensor = torch.ones(2**26)
    with_it = held_on("cpu")
    del tensor
    assert with_it is not None and with_it > before + 2**27
    assert held(torch.device("cpu")) < with_it - 2**27


def test_of_a_device_that_is_not_there_nothing_is_held(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert held_on("cuda") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert held_on("cuda") == 0, "before CUDA is used"


def test_what_stands_beside_the_bar_is_loss_pace_and_memory():
    row = {"loss": 0.31, "seconds": 0.523, "bytes": round(9.6 * 2**30)}
    assert figures(row, "cuda") == "loss 0.3100, 0.52 s/step, VRAM 9.6 GB"
    assert figures(row | {"seconds": 14.7}, "cpu") == "loss 0.3100, 15 s/step, memory 9.6 GB"


HOLDER = """
import sys, torch
from limner.recipe.schema import Limits
from limner.reporter import Reporter
from limner.run_folder import RunDir
from limner.training.monitor import device_lock
with device_lock(torch.device("cpu"), Limits(exclusive=True), RunDir(sys.argv[1]), Reporter()):
    print("held", flush=True)
    sys.stdin.read()
"""
ASKED = Limits(exclusive=True)
CPU = torch.device("cpu")


@pytest.fixture
def holder(tmp_path):
    """Another process that has the device until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "first")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_waits_and_says_for_whom(holder, tmp_path):
    heard, inside = [], threading.Event()

    def second():
        with device_lock(CPU, ASKED, RunDir(tmp_path / "second"), Reporter(heard.append), interval=0.01):
            inside.set()

    thread = threading.Thread(target=second)
    thread.start()
    while not heard:
        thread.join(0.01)
    assert not inside.wait(0.2)
    holder.stdin.close()
    thread.join(LONGEST)
    assert inside.is_set()
    assert heard[0].text == (
        f"cpu is in use by process {holder.pid}, run {tmp_path / 'first'}. Waiting for it; "
        "limits.exclusive=false shares it."
    )


def test_a_process_that_is_killed_lets_go(holder, tmp_path):
    holder.kill()
    holder.wait()
    heard = []
    with device_lock(CPU, ASKED, RunDir(tmp_path / "second"), Reporter(heard.append), interval=0.01):
        assert not heard


def test_waiting_can_be_ended(holder, tmp_path):
    run = RunDir(tmp_path / "second")
    with pytest.raises(Stopped), device_lock(CPU, ASKED, run, Reporter(stop=lambda: True), interval=0.01):
        pytest.fail("the other process has it")


@pytest.mark.parametrize("limits", [Limits(), Limits(exclusive=False)])
def test_on_a_cpu_runs_do_not_wait_for_each_other(holder, tmp_path, limits):
    heard = []
    with device_lock(CPU, limits, RunDir(tmp_path / "second"), Reporter(heard.append)):
        assert not heard and holder.poll() is None


def test_a_gpu_is_told_by_what_all_processes_see_of_it(monkeypatch):
    facts = type("Facts", (), {"uuid": "0f3a"})()
    monkeypatch.setattr(module.torch.cuda, "get_device_properties", lambda device: facts)
    assert device_name(torch.device("cuda", 0)) == "cuda-0f3a"
    assert device_name(torch.device("mps")) == "mps"


def test_steps_that_overflowed_are_told():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    row = {"step": 7, **loss_scale(scaler, 2)}
    assert row == {"step": 7, "loss_scale": 1024.0, "repeats": 2}
    assert "Step 7" in overflow_lines(row)[0] and "2 times" in overflow_lines(row)[0]
    assert overflow_lines({"step": 8, **loss_scale(scaler, 0)}) == []
    assert loss_scale(torch.amp.GradScaler("cpu", enabled=False), 0) == {}
