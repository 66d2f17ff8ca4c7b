import json
from pathlib import Path

import pytest

from limner.cli import jobs as cli
from limner.cli.jobs import line_of
from limner.jobs import Job, Jobs
from waiting import until


@pytest.fixture
def queue(tmp_path):
    jobs = Jobs(tmp_path / ".limner" / "jobs")
    yield jobs
    for job in jobs.all():
        jobs.stop(job.number, now=True)


def state(queue, number):
    return lambda: queue.get(number).has_ended and queue.get(number)


def test_a_command_is_added_listed_read_and_removed(limner, queue):
    assert limner("jobs").out == "No jobs in .limner/jobs.\n"
    done = limner("jobs", "add", "--title", "The schema", "--device", "cpu", "--", "schema")
    assert done.status == 0 and done.out.splitlines()[1] == "Follow: limner jobs log 1 --follow"
    job = until(state(queue, 1))
    assert "properties" in job.result()
    listed = limner("jobs")
    assert listed.out.startswith("1: done, cpu, ") and listed.out.endswith(" s, The schema\n")
    value = json.loads(limner("jobs", "list", "--json").out)
    assert value["at_once"] == 1 and value["jobs"][0]["arguments"] == ["schema"]
    assert json.loads(limner("jobs", "log", 1).out) == job.result()
    followed = limner("jobs", "log", 1, "--follow").out.splitlines()
    assert json.loads(followed[0]) == job.result() and followed[1].startswith("1: done")
    assert json.loads(limner("jobs", "remove", 1, "--json").out) == {"removed": 1}
    assert limner("jobs").out == "No jobs in .limner/jobs.\n"


def test_a_failure_is_listed_with_its_line(limner, queue):
    added = json.loads(limner("jobs", "add", "--json", "train", "nowhere", "--out", "runs/cat").out)
    assert added["run"].endswith("runs/cat") and added["arguments"][-2:] == ["--out", "runs/cat"]
    until(state(queue, 1))
    line = limner("jobs").out
    assert line.startswith("1: failed (2), gpu, ") and "There is no nowhere." in line
    said = limner("jobs", "log", 1).out
    assert said.startswith("limner: error: There is no nowhere.")
    assert json.loads(limner("jobs", "log", 1, "--json").out)["stderr"] == said.splitlines()
    assert json.loads(limner("jobs", "stop", 1, "--json").out)["state"] == "failed"
    again = json.loads(limner("jobs", "again", 1, "--json").out)
    assert (again["number"], again["arguments"], again["run"]) == (2, added["arguments"], added["run"])


def test_what_waited_before_a_restart_goes_on_with_the_next_look(limner, queue, tmp_path):
    limner("jobs", "add", "--", "schema")
    until(state(queue, 1))
    folder = queue.folder / "0001"
    (folder / "started").rename(folder / "queued")
    record = json.loads((folder / "job.json").read_text())
    record["adder"]["birth"] = "another-boot 1"
    (folder / "job.json").write_text(json.dumps(record))
    (folder / "state.json").unlink()
    (folder / "keeper.json").unlink()
    assert queue.get(1).state == "queued"
    assert limner("jobs").err == "Job 1 goes on waiting: its process was gone.\n"
    assert until(state(queue, 1)).state == "done"


def test_what_a_job_said_is_escaped(limner, queue):
    limner("jobs", "add", "--title", "\x1b[2J", "--", "--version")
    job = until(state(queue, 1))
    job.stderr_path.write_bytes(b"a\x1b[2J\xe9\n")
    assert limner("jobs", "log", 1).out.startswith("a\\x1b[2J\\xe9\n")
    assert limner("jobs", "log", 1, "--follow").out.startswith("a\\x1b[2J\\xe9\n")
    assert "\x1b" not in limner("jobs").out


def test_the_limit_is_set(limner, queue):
    assert json.loads(limner("jobs", "--at-once", 2, "--json").out) == {"jobs": [], "at_once": 2}
    assert queue.at_once == 2
    refused = limner("jobs", "--at-once", 0)
    assert refused.status == 2 and "Say 1 or more" in refused.err


def test_bad_use_is_told(limner):
    for arguments, text in {
        ("stop", "7"): "There is no job 7",
        ("log", "7", "--follow"): "There is no job 7",
        ("log", "7", "--follow", "--json"): "Leave one of the two out",
        ("add",): "Missing argument",
        ("add", "--device", "tpu", "schema"): "Say one of the two",
    }.items():
        refused = limner("jobs", *arguments)
        assert refused.status == 2 and text in refused.err, refused.err
    refused = limner("jobs", "--folder", "x", "list")
    assert refused.status == 2 and "Put it behind: limner jobs list --folder FOLDER" in refused.err


def test_following_ends_by_ctrl_c_and_the_job_goes_on(limner, queue, monkeypatch):
    queue.add(["--version"])

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_follow", interrupt)
    done = limner("jobs", "log", 1, "--follow")
    assert done.status == 1 and "No longer followed. Job 1 goes on by itself." in done.err


def test_the_run_folder_of_a_training_is_known(limner, tmp_path):
    (tmp_path / "photos").mkdir()
    for command, run in {
        ("train", "photos", "--steps", "9"): "runs/photos",
        ("train", "cat.toml"): "runs/cat",
        ("train", "photos", "--out", "a"): "a",
        ("train", "photos", "--out=a"): "a",
        ("train", "recipe.toml"): None,
        ("train", "--out"): None,
        ("train",): None,
        ("check", "photos", "--out", "a"): None,
    }.items():
        assert cli._run_of(command) == (run and Path(run)), command


def test_a_job_in_a_line(tmp_path):
    values = {"number": 3, "arguments": ("train",), "title": "Cat", "run": None, "device": "gpu"}
    values |= {"added": 1.0, "folder": tmp_path, "exit_code": None, "started": None, "ended": None}
    values |= {"secrets": ()}
    assert line_of(Job(**values, state="queued", line="")) == "3: queued, gpu, Cat"
    values |= {"started": 1.0, "ended": 76.0, "exit_code": 1}
    assert line_of(Job(**values, state="failed", line="No.")) == "3: failed (1), gpu, 1 min 15 s, Cat: No."
    values |= {"ended": None, "exit_code": None}
    assert line_of(Job(**values, state="died", line="")) == "3: died, gpu, Cat"
