import json

from filelock import FileLock

from limner.jobs.job_folder import TAIL, JobFolder, tail


def test_one_alone_takes_a_job_out_of_the_queue(tmp_path):
    files = JobFolder(tmp_path)
    files.queued_path.touch()
    assert files.is_queued() and files.begins() and not files.cancels() and not files.begins()
    assert files.has_started() and not files.shall_stop() and not files.is_queued()
    files.started_path.rename(files.queued_path)
    assert files.cancels() and not files.begins() and files.shall_stop()


def test_the_lock_tells_of_processes_that_cannot_be_seen(tmp_path):
    files = JobFolder(tmp_path)
    files.keeper_path.write_text(json.dumps({"pid": 1, "host": "another", "start": 1.0}))
    assert not files.has_keeper() and not files.lock_path.exists()
    with FileLock(files.lock_path):
        assert files.has_keeper()
    assert not files.has_keeper()


def test_the_last_line_is_of_stderr_then_of_stdout_then_of_the_keeper(tmp_path):
    files = JobFolder(tmp_path)
    assert files.last_line() == ""
    files.log_path.write_text("no module\n")
    assert files.last_line() == "no module"
    files.stdout_path.write_text('all well\n{"a": 1}\n')
    assert files.last_line() == "all well"
    files.stderr_path.write_bytes(b"first\rsecond \xe9\n\n")
    assert files.last_line() == "second \\xe9"


def test_of_a_long_text_whole_lines_are_read(tmp_path):
    path = tmp_path / "text"
    path.write_text("x" * TAIL + "\nlast\n")
    assert tail(path) == ["last"]
    path.write_text("x" * (TAIL + 9))
    assert tail(path) == []
