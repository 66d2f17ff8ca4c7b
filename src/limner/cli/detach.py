"""``--detach``: the same command again in a session of its own, which no terminal ends."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from limner.cli.show import SILENT, result
from limner.run_folder import RunDir

FLAGS = ("--detach", "--json", "--events")
"""What is said to this process alone."""


def detached(out: Path, *, as_json: bool, arguments: list[str] | None = None) -> None:
    """Start this command line once more without ``--detach``, and say how to follow and stop it.

    What it says goes to ``train.log`` in its run folder, and so does a traceback.

    Args:
        out: Its run folder.
        as_json: Whether the result is told as JSON.
        arguments: What follows ``limner``; those of this process when left out.

    Raises:
        RunBusy: Another process trains in that folder.
    """
    run = RunDir(out)
    with run.lock():  # told now, where somebody reads it
        pass
    line = list(sys.argv[1:] if arguments is None else arguments)
    command = [sys.executable, "-m", "limner", *(word for word in line if word not in FLAGS)]
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
    with run.log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, SILENT: "1"},
            **options,
        )
    process.returncode = 0  # it outlives this one, which shall not warn of that
    lines = [
        f"Process {process.pid} trains in {out}.",
        f"Follow: limner status {out}, or {run.log_path}",
        f"Stop:   limner ask {out} stop",
    ]
    result({"pid": process.pid, "run": out, "log": run.log_path}, lines, as_json=as_json)
