import pytest

from limner.jobs import Jobs
from limner.run_folder import RunDir
from limner.status import read_status
from waiting import until


@pytest.mark.slow  # two real trainings, each of which imports torch
def test_a_training_that_is_stopped_saves_and_goes_on_as_another_job(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs, run = Jobs(tmp_path / "jobs"), RunDir(tmp_path / "run")
    command = ["train", "photos", "--base", "glyph", "--out", "run", "--set", "sample.every=-1", "--json"]
    jobs.add([*command, "--steps", "5000"], title="Thing", run=run.path)

    def step():
        status = read_status(run.path)
        return status and status.step

    until(step)
    assert jobs.get(1).state == "running"
    jobs.stop(1)
    job = until(lambda: (job := jobs.get(1)).has_ended and job)
    newest = run.checkpoints()[0][0]
    assert (job.state, job.exit_code) == ("stopped", 1) and 0 < newest < 5000
    assert job.line.startswith(f"Stopped at step {newest} of 5000; saved.")
    jobs.add([*command, "--steps", str(newest + 3)], run=run.path)
    job = until(lambda: (job := jobs.get(2)).has_ended and job)
    result = job.result()
    assert job.state == "done" and result is not None and result["steps"] == newest + 3, job.line
    steps = [row["step"] for row in run.metrics() if "loss" in row]
    assert steps == list(range(1, newest + 4))
