import json
import subprocess
import sys

import pytest

from limner.errors import BadUsage
from limner.jobs import Jobs
from messages import raises
from waiting import until


def states(jobs):
    return [job.state for job in jobs.all()]


def test_looking_creates_nothing(jobs):
    assert jobs.all() == [] and jobs.at_once == 1
    assert not jobs.folder.exists()


def test_a_job_runs_where_and_as_it_was_said(jobs, work, monkeypatch):
    monkeypatch.setenv("LIMNER_SILENT", "1")
    (work / "below").mkdir()
    (work / "below" / "json.py").write_text("raise SystemExit('a file of the person is no module')")
    first = jobs.add(["env", "SHADE"], title="Shade", secrets={"SHADE": "s3cret"}, cwd=work / "below")
    assert (first.number, first.title, first.arguments, first.device) == (1, "Shade", ("env", "SHADE"), "gpu")
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code) == ("done", 0)
    value = {"value": "s3cret", "silent": None, "session": True, "cwd": str(work / "below")}
    assert job.result() == value and job.events() == []
    assert job.added <= job.started <= job.ended
    # a secret is in no file, but for the output of this very command
    files = [path for path in jobs.folder.rglob("*") if path.is_file() and path != job.stdout_path]
    assert len(files) >= 5 and not [path for path in files if b"s3cret" in path.read_bytes()]


def test_a_failure_is_told_by_its_error_line(jobs):
    jobs.add(["fail"], device="cpu")
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code, job.line) == ("failed", 1, "The disk is \\x1b[2Jfull.")
    assert job.title == "fail" and job.result() is None


def test_one_after_the_other_in_the_order_of_adding(jobs, work):
    for name in "abc":
        jobs.add(["wait", name])
    until(lambda: states(jobs) == ["running", "queued", "queued"] and (work / "order").exists())
    jobs.add(["env", "PATH"], device="cpu")
    until(lambda: jobs.get(4).state == "done")  # on the CPU nobody waits
    assert states(jobs)[:3] == ["running", "queued", "queued"]
    for name in "abc":
        until(lambda name=name: (work / "order").read_text().split()[-1] == name)
        (work / name).touch()
    until(lambda: states(jobs) == ["done"] * 4)
    assert (work / "order").read_text().split() == ["a", "b", "c"]


def test_two_at_once(jobs, work):
    jobs.set_at_once(2)
    assert jobs.at_once == Jobs(jobs.folder).at_once == 2
    for name in "abc":
        jobs.add(["wait", name])
    until(lambda: states(jobs) == ["running", "running", "queued"])
    (work / "b").touch()
    until(lambda: states(jobs) == ["running", "done", "running"])


def test_one_that_waits_and_is_stopped_never_starts(jobs, work):
    jobs.add(["wait", "a"])
    jobs.add(["wait", "b"])
    assert jobs.stop(2).state == "stopped"
    until(lambda: (work / "order").exists())
    (work / "a").touch()
    until(lambda: jobs.get(1).has_ended)
    jobs.add(["wait", "c"])
    until(lambda: jobs.get(3).state == "running" and "c" in (work / "order").read_text())
    assert states(jobs) == ["done", "stopped", "running"]
    assert "b" not in (work / "order").read_text() and jobs.get(2).exit_code is None
    assert jobs.stop(2).state == "stopped"  # once more changes nothing


def test_one_that_runs_is_stopped(jobs, work):
    jobs.add(["wait", "a"])
    until(lambda: (work / "order").exists())
    assert jobs.stop(1).state in ("stopping", "stopped")
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code, job.line) == ("stopped", -15, "Stopped.")


def test_numbers_are_not_given_again(jobs):
    for _ in range(2):
        jobs.add(["fail"], device="cpu")
    until(lambda: states(jobs) == ["failed", "failed"])
    jobs.remove(2)
    assert [job.number for job in jobs.all()] == [1] and not (jobs.folder / "0002").exists()
    assert jobs.add(["fail"], device="cpu").number == 3
    with raises(BadUsage):
        jobs.get(2)


def test_a_job_is_added_again(jobs, work, tmp_path):
    jobs.add(["env", "SHADE"], title="Shade", device="cpu", run="run", cwd=tmp_path)
    until(lambda: states(jobs) == ["failed"])  # the variable is not there
    job = jobs.again(1, secrets={"SHADE": "blue"})
    assert (job.number, job.title, job.device, job.run) == (2, "Shade", "cpu", tmp_path / "run")
    until(lambda: states(jobs) == ["failed", "done"])
    assert jobs.get(2).result() == {
        "value": "blue",
        "silent": None,
        "session": True,
        "cwd": str(tmp_path),
    }
    (jobs.folder / "0001" / "job.json").write_text("{}")
    with raises(BadUsage):
        jobs.again(1)


def test_what_runs_is_not_removed_nor_added_again(jobs, work):
    jobs.add(["wait", "a"])
    until(lambda: (work / "order").exists())
    with raises(BadUsage):
        jobs.remove(1)
    with raises(BadUsage):
        jobs.again(1)
    assert jobs.get(1).state == "running"


def test_several_processes_add_at_once(jobs):
    code = (
        "import sys; from limner.jobs import Jobs; jobs = Jobs(sys.argv[1])\n"
        "for _ in range(3): jobs.add(['fail'], title=sys.argv[2], device='cpu')"
    )
    adders = [subprocess.Popen([sys.executable, "-c", code, jobs.folder, name]) for name in ("a", "b")]
    assert [adder.wait() for adder in adders] == [0, 0]
    found = jobs.all()
    assert [job.number for job in found] == [1, 2, 3, 4, 5, 6]
    assert sorted(job.title for job in found) == [*"aaabbb"]
    until(lambda: states(jobs) == ["failed"] * 6)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    jobs = Jobs(tmp_path / "file" / "jobs")
    assert jobs.all() == [] and jobs.at_once == 1
    with raises(BadUsage):
        jobs.add(["schema"])
    with raises(BadUsage):
        jobs.set_at_once(2)


@pytest.mark.parametrize("number", [0, 9])
def test_an_unknown_number_is_told(jobs, number):
    for act in (jobs.get, jobs.stop, jobs.remove):
        with raises(BadUsage):
            act(number)


@pytest.mark.parametrize(
    "arguments, options",
    [
        ([], {}),
        (["train", "photos", "--detach"], {}),
        (["train"], {"device": "tpu"}),
        (["train", "a\0b"], {}),
        (["train"], {"secrets": {"A=B": "c"}}),
    ],
    ids=["nothing", "detach", "device", "zero", "secret"],
)
def test_what_can_be_no_job_is_refused(jobs, arguments, options):
    with raises(BadUsage):
        jobs.add(arguments, **options)
    assert not jobs.folder.exists()


def test_a_limit_that_is_no_number_is_told(jobs):
    with raises(BadUsage):
        jobs.set_at_once(0)
    jobs.set_at_once(3)
    (jobs.folder / "at_once").write_text("many\x1b[2J")
    with raises(BadUsage):
        _ = jobs.at_once
    jobs.add(["fail"])
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert job.state == "failed" and "at_once holds" in job.line


def test_a_folder_that_is_gone_when_its_turn_comes_is_told(jobs, work):
    jobs.add(["fail"], cwd=work / "nowhere")
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert (job.state, job.exit_code) == ("failed", None) and "nowhere" in job.line


def test_names_that_are_no_utf8_are_kept(jobs):
    jobs.add(["fail", "a\udce9b", "é"], device="cpu")
    assert jobs.get(1).arguments == ("fail", "a\udce9b", "é")
    assert json.loads((jobs.folder / "0001" / "job.json").read_text())["title"] == "fail a\udce9b é"
    assert until(lambda: jobs.get(1).has_ended)
