"""Jobs whose commands are a small stand-in for ``python -m limner``, so that no test here trains."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from limner.jobs import Jobs
from waiting import until

STAND_IN = """
import json, os, sys, time
from pathlib import Path

verb, *rest = sys.argv[1:]
if verb == "env":
    print(json.dumps({"value": os.environ[rest[0]], "silent": os.environ.get("LIMNER_SILENT"),
                      "session": os.getsid(0) == os.getpid(), "cwd": os.getcwd()}))
elif verb == "fail":
    print("Caching 1/2", file=sys.stderr)
    print("limner: error: The disk is \\x1b[2Jfull.", file=sys.stderr)
    sys.exit(1)
elif verb == "wait":  # until a file is there
    print("Waiting", file=sys.stderr, flush=True)
    with open("order", "a") as order:
        order.write(rest[0] + "\\n")
    while not Path(rest[0]).exists():
        time.sleep(0.02)
elif verb == "train":  # until it is asked to stop, or a file is there
    from limner.errors import Stopped
    from limner.run_folder import RunDir
    from limner.status import Requests, StatusFile
    run = RunDir(rest[0])
    try:
        with Requests(run) as requests, StatusFile(run):
            Path("order").touch()
            while not requests.stops() and not Path("end").exists():
                time.sleep(0.02)
            if requests.stops():
                raise Stopped("Stopped at step 2; saved.")
    except Stopped as error:
        print(f"limner: error: {error}", file=sys.stderr)
        sys.exit(1)
elif verb == "events":
    print('{"event": "message", "text": "a"}\\n{"event": "step_done", "step": 1}\\n{"lora": "x"}')
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the commands, where ``python -m limner`` is the stand-in."""
    package = tmp_path / "fake" / "limner"
    package.mkdir(parents=True)
    source = Path(__file__).resolve().parents[2] / "src" / "limner"
    # the package itself, with another command line
    (package / "__init__.py").write_text(f"__path__.append({str(source)!r})\n")
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    work = tmp_path / "jobs-home"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def jobs(work: Path) -> Iterator[Jobs]:
    """Jobs of the working folder; what still runs in the end is killed."""
    queue = Jobs(work / ".limner" / "jobs")
    yield queue
    for job in queue.all():
        queue.stop(job.number, now=True)
    until(lambda: all(job.has_ended for job in queue.all()))
    mark = str(work)
    for process in psutil.process_iter(["cmdline"]):
        if any(mark in word for word in process.info["cmdline"] or []) and process.pid != os.getpid():
            with suppress(psutil.Error):
                process.kill()
