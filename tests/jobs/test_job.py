import json
import time

from limner.jobs.job import read_job
from limner.jobs.job_folder import JobFolder
from waiting import until


def test_events_and_the_result_behind_them_are_read(jobs):
    jobs.add(["events"], device="cpu")
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    assert [event["event"] for event in job.events()] == ["message", "step_done"]
    assert job.result() == {"lora": "x"}
    job.stdout_path.write_text('{"event": "message"}\n{"event": "st')  # it is being written
    assert job.events() == [{"event": "message"}] and job.result() is None
    job.stdout_path.write_text("[1]")
    assert job.result() is None


def test_a_damaged_job_is_seen_and_can_be_removed(jobs):
    texts = ["{", "\xff", '{"arguments": 3, "run": 4, "added": "x"}', "[" * 100_000]
    for _ in texts:
        jobs.add(["fail"], device="cpu")
    until(lambda: all(job.has_ended for job in jobs.all()))
    for number, text in enumerate(texts, 1):
        files = JobFolder(jobs.get(number).folder)
        files.job_path.write_text(text, encoding="latin-1")
        job = jobs.get(number)
        assert (job.state, job.arguments, job.run, job.added) == ("failed", (), None, 0.0)
        assert "is damaged. Remove the job: limner jobs remove" in job.line
        files.state_path.write_text(text, encoding="latin-1")
        until(lambda number=number: jobs.get(number).state == "died")
        jobs.remove(number)
    assert jobs.all() == []


def test_a_folder_without_a_job_is_none(tmp_path):
    (tmp_path / "0001").mkdir()
    assert read_job(tmp_path / "0001") is None


def test_what_was_queued_when_the_computer_went_down_has_died(tmp_path):
    files = JobFolder(tmp_path / "0001")
    files.path.mkdir()
    record = {"arguments": ["train"], "title": "Cat \x1b[2J", "added": time.time(), "device": "gpu"}
    files.job_path.write_text(json.dumps(record | {"adder": {"pid": 1, "host": "another", "start": 1.0}}))
    files.queued_path.touch()
    job = read_job(files.path)
    assert job is not None and job.state == "died" and job.title == "Cat \x1b[2J"
