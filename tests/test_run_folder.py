import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from drafts import draft_of
from limner.errors import BadData, BadUsage, RunBusy
from limner.run_folder import RunDir, run_of, step_of
from messages import raises

HOLD = """
import sys, time
from limner.run_folder import RunDir
with RunDir(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def hold(run):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


def touch(run, *steps):
    run.checkpoints_path.mkdir(parents=True, exist_ok=True)
    for step in steps:
        run.checkpoint_path(step).write_bytes(b"whole")


def whole(path):
    return path.read_bytes() == b"whole"


def steps(run):
    return [step for step, _ in run.checkpoints()]


def test_looking_creates_nothing(run):
    assert (run.metrics(), run.checkpoints(), run.samples(), run.prompts(), run.data()) == (
        [],
        [],
        {},
        [],
        {},
    )
    assert run.best() is None
    assert run.truncate(5) == 0
    assert run.prune(3, None, whole) == []
    assert not run.path.exists()


def test_it_loads_no_torch():
    code = "import sys, limner.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_second_training_is_refused_and_told_who_holds_the_folder(run):
    holder = hold(run)
    try:
        words = f"process {holder.pid} on {socket.gethostname()} has held it since 20"
        with pytest.raises(RunBusy, match=words), run.lock():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run.lock():  # the kernel dropped the lock with the process
        assert json.loads((run.path / "lock.json").read_text())["pid"] == os.getpid()
    assert not (run.path / "lock.json").exists()


def test_the_lock_holds_within_one_process_and_is_dropped_on_errors(run):
    with run.lock(), pytest.raises(RunBusy, match="is in use"), RunDir(run.path).lock():
        pass
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock():
        pass


def test_a_damaged_signature_still_says_that_the_folder_is_busy(run):
    with run.lock():
        for text in ("", "[]", '{"pid": 1}'):
            (run.path / "lock.json").write_text(text)
            with raises(RunBusy), RunDir(run.path).lock():
                pass


def test_a_file_in_the_place_of_the_folder_is_bad_usage(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with raises(BadUsage), RunDir(path).lock():
            pass


def test_the_lock_sweeps_out_what_a_killed_process_left(run):
    touch(run, 250)
    drafts = [
        draft_of(run.path / "metrics.jsonl", pid=1),
        draft_of(run.checkpoints_path / "step-000500.safetensors", pid=2**22 + 1),
        draft_of(run.step_lora_path(500)),
        draft_of(run.sample_path(250, 0), host="0" * 8),
    ]
    left = [*drafts, drafts[1].with_name(".tmpesbJdw")]
    own = [run.checkpoint_path(250), run.path / ".gitignore", run.path / "notes.part", run.path / ".tmp"]
    for path in [*left, *own[1:]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with run.lock():
        assert not any(path.exists() or path.parent.exists() for path in left)
        assert all(path.exists() for path in own)


def test_rows_come_back_as_they_went_in(run):
    rows = [
        {"step": 1, "loss": 0.1 + 0.2},
        {"step": 1, "held_out": 1e-300},
        {"step": 2, "note": "é\n</script>"},
    ]
    for row in rows:
        run.log(row)
    assert run.metrics() == rows
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.log({"step": 3, "loss": float("nan")})
    assert run.metrics() == rows


def test_truncate_drops_later_rows_and_the_torn_line(run):
    for step in range(1, 7):
        run.log({"step": step, "loss": step / 10})
    with run.metrics_path.open("ab") as file:
        file.write(b'{"step": 7, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert run.truncate(4) == 1
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]
    assert run.metrics_path.read_bytes().endswith(b"\n")
    run.log({"step": 5})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    assert list(run.path.iterdir()) == [run.metrics_path]
    assert run.truncate(-1) == 0
    assert run.metrics() == []


def test_truncate_leaves_a_good_file_alone(run):
    run.log({"step": 1})
    before = run.metrics_path.stat().st_ino
    assert run.truncate(1) == 0
    assert run.metrics_path.stat().st_ino == before


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b'{"step": 1, "n": "\xed\xa0\x80"}\n',
        b"[1]\n",
        b"{}\n",
        b'{"step": "x"}\n',
        b"\n",
        b"[" * 10**5 + b"\n",
    ],
)
def test_damaged_lines_are_passed_over_and_counted(run, line):
    run.log({"step": 1})
    with run.metrics_path.open("ab") as file:
        file.write(line)
    run.log({"step": 2})
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert run.truncate(9) == 1
    assert run.metrics_path.read_bytes().count(b"\n") == 2


def test_checkpoints_are_listed_newest_first_by_number(run):
    touch(run, 250, 1000000, 999999, 500)
    for name in (
        "step-000001.safetensors.damaged",
        "step-1.safetensors",
        ".limner-12345678-1-abcdefgh.part",
        "x",
    ):
        (run.checkpoints_path / name).write_text("")
    assert steps(run) == [1000000, 999999, 500, 250]


def test_best_is_the_least_held_out_loss_that_has_a_checkpoint(run):
    touch(run, 2, 4, 6)
    for step, loss in [(2, 0.5), (3, 0.1), (4, 0.3), (6, 0.4)]:
        run.log({"step": step, "loss": 0.0})
        run.log({"step": step, "held_out": loss})
    with run.metrics_path.open("a") as file:
        file.write(
            '{"step": 6, "held_out": NaN}\n{"step": 6, "held_out": "0"}\n{"step": 6, "held_out": true}\n'
        )
    assert run.best() == 4


def test_prune_keeps_the_newest_and_the_best(run):
    touch(run, 1, 2, 3, 4, 5, 6)
    assert {path.name[5:11] for path in run.prune(2, 3, whole)} == {"000001", "000002", "000004"}
    assert steps(run) == [6, 5, 3]
    assert run.prune(2, 3, whole) == []
    run.prune(0, None, whole)
    assert steps(run) == [6]


def test_prune_never_deletes_the_only_whole_one(run):
    touch(run, 1, 2, 3, 4)
    for step in (3, 4):
        run.checkpoint_path(step).write_bytes(b"torn")
    run.prune(2, None, whole)
    assert steps(run) == [4, 3, 2]
    run.prune(1, 99, whole)
    assert steps(run) == [4, 2]


def test_prune_asks_about_no_more_files_than_it_must(run):
    touch(run, 1, 2, 3, 4)
    asked = []
    run.prune(2, None, lambda path: asked.append(path) or True)
    assert asked == [run.checkpoint_path(4)]


def test_a_damaged_checkpoint_is_set_aside_not_lost(run):
    touch(run, 1, 2)
    aside = run.mark_damaged(run.checkpoint_path(2))
    assert aside.read_bytes() == b"whole"
    assert steps(run) == [1]


def test_samples_and_prompts(run):
    run.write_prompts(["a cat", "ein Bär"])
    for step in (250, 0):
        for index in (1, 0):
            path = run.sample_path(step, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    (run.samples_path / "step-000250" / "notes.txt").write_text("")
    (run.samples_path / "step-000500").mkdir()
    run.sheet_path.write_bytes(b"")
    found = run.samples()
    assert [(step, list(row)) for step, row in found.items()] == [(0, [0, 1]), (250, [0, 1])]
    assert found[250][1] == run.samples_path / "step-000250" / "01.png"
    assert run.prompts() == ["a cat", "ein Bär"]


def test_pictures_of_prompts_that_have_changed_are_moved(tmp_path):
    run = RunDir(tmp_path)
    run.write_prompts(["a", "b", "c"])
    for step in (0, 20):
        for index in range(3):
            path = run.sample_path(step, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{step} {index}")
    assert run.write_prompts(["a", "b", "c"]) == 0 and not run.earlier_path.exists()
    assert run.write_prompts(["a", "d"]) == 4
    assert run.samples().keys() == {0, 20} and all(list(one) == [0] for one in run.samples().values())
    kept = sorted(path.read_text() for path in run.earlier_path.iterdir())
    assert kept == ["0 1", "0 2", "20 1", "20 2"] and run.prompts() == ["a", "d"]


def test_pictures_stay_where_nobody_knows_what_they_show(tmp_path):
    run = RunDir(tmp_path)
    path = run.sample_path(0, 0)
    path.parent.mkdir(parents=True)
    path.touch()
    run.prompts_path.write_text("{")
    assert run.write_prompts(["a"]) == 0 and run.samples() and run.prompts() == ["a"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 10**5])
def test_damaged_json_is_said(run, content):
    run.path.mkdir()
    run.data_path.write_bytes(content)
    with pytest.raises(BadData, match=r"data\.json cannot be read"):
        run.data()


def test_locking_is_quick(run):
    start = time.perf_counter()
    for _ in range(5):
        with run.lock():
            pass
    assert time.perf_counter() - start < 2


def test_loras_of_steps_are_found_by_number_best_and_last(run):
    for step in (100, 200, 300):
        run.step_lora_path(step).parent.mkdir(parents=True, exist_ok=True)
        run.step_lora_path(step).write_text("")
        run.log({"step": step, "held_out": abs(step - 190) / 100})
    (run.loras_path / "mine.safetensors").write_text("")
    assert [step for step, _ in run.step_loras()] == [300, 200, 100]
    assert run.best_lora() == 200 and run.best() is None
    assert run.best_validation() == (200, 0.1)
    for name, step in (("best", 200), ("last", 300), (100, 100)):
        assert run.step_lora(name) == run.step_lora_path(step)
    with raises(BadUsage):
        run.step_lora(150)
    run.drop_step_loras(100)
    assert [step for step, _ in run.step_loras()] == [100]


@pytest.mark.parametrize("step", [1, "best", "last"])
def test_a_run_without_loras_of_steps_says_how_to_get_one(run, step):
    with raises(BadUsage):
        run.step_lora(step)


def test_a_file_knows_its_run(run):
    files = (run.lora_path, run.step_lora_path(3), run.checkpoint_path(3))
    assert [run_of(path) for path in files] == [None, None, None]
    run.path.mkdir()
    run.recipe_path.write_text("")
    for path in files:
        found = run_of(path)
        assert found is not None and found.path == run.path
    assert run_of(run.path.parent / "other.safetensors") is None
    assert [step_of(path) for path in files] == [None, 3, 3]
