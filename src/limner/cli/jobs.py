"""``limner jobs``: commands in the background, one after the other on the GPU."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from limner.cli.options import Json, example
from limner.errors import BadUsage, Stopped

if TYPE_CHECKING:
    from limner.jobs import Job, Jobs

JOBS = Path(".limner") / "jobs"
"""Where the jobs of a workspace are, the studio's too."""
INTERVAL = 0.5
"""Seconds between two looks at what a job says."""

app = typer.Typer(
    name="jobs",
    help="Run commands in the background, one after the other on the GPU.",
    rich_markup_mode=None,
)
Folder = Annotated[Path, typer.Option("--folder", help="Where the jobs are kept.")]
Number = Annotated[int, typer.Argument(metavar="NUMBER", help="Of the job, from the list.")]
Limit = Annotated[
    int | None,
    typer.Option(
        "--at-once", help="From now on, how many may compute on the GPU at once.", show_default=False
    ),
]


def register(parent: typer.Typer) -> None:
    """Add the verbs to the command line."""
    parent.add_typer(app)


@app.callback(invoke_without_command=True, epilog=example("limner jobs add -- train photos/ --base glyph"))
def jobs(
    context: typer.Context, *, folder: Folder = JOBS, at_once: Limit = None, as_json: Json = False
) -> None:
    """Run commands in the background, one after the other on the GPU. Lists them when alone."""
    if context.invoked_subcommand is None:
        list_(folder=folder, at_once=at_once, as_json=as_json)
    elif folder != JOBS or at_once is not None or as_json:
        name = context.invoked_subcommand
        raise BadUsage(f"An option stands before {name}. Put it behind: limner jobs {name} --folder FOLDER")


@app.command("list", epilog=example("limner jobs list"))
def list_(*, folder: Folder = JOBS, at_once: Limit = None, as_json: Json = False) -> None:
    """List jobs, and what each is doing."""
    from limner.cli.show import result

    queue = _queue(folder)
    if at_once is not None:
        queue.set_at_once(at_once)
    items = queue.all()
    lines = [line_of(job) for job in items] or [f"No jobs in {folder}."]
    result({"jobs": items, "at_once": queue.at_once}, lines, as_json=as_json)


@app.command(
    epilog=example("limner jobs add -- train photos/ --base glyph"),
    context_settings={"allow_interspersed_args": False},
)
def add(
    *,
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="What follows `limner`, behind a --.", show_default=False),
    ],
    title: Annotated[str, typer.Option("--title", help="For the list.", show_default=False)] = "",
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="The run folder it works in. Left out: that of `train`.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="gpu: wait until the jobs before it have ended; cpu: do not wait.")
    ] = "gpu",
    folder: Folder = JOBS,
    as_json: Json = False,
) -> None:
    """Run a command in the background when its turn comes, also when the terminal is closed."""
    from limner.cli.show import result

    job = _queue(folder).add(command, title=title, run=run or _run_of(command), device=device)
    lines = [
        f"Job {job.number} is {job.state}.",
        f"Follow: limner jobs log {job.number} --follow",
        f"Stop:   limner jobs stop {job.number}",
    ]
    result(job, lines, as_json=as_json)


@app.command(epilog=example("limner jobs stop 3"))
def stop(
    number: Number,
    *,
    now: Annotated[
        bool, typer.Option("--now", help="Kill it without asking: what it did not save is lost.")
    ] = False,
    folder: Folder = JOBS,
    as_json: Json = False,
) -> None:
    """Ask a job to end. A training saves first; a job that waits never starts."""
    from limner.cli.show import result

    job = _queue(folder).stop(number, now=now)
    result(job, [line_of(job)], as_json=as_json)


@app.command(epilog=example("limner jobs again 3"))
def again(number: Number, *, folder: Folder = JOBS, as_json: Json = False) -> None:
    """Add a job that has ended once more. A training goes on from where it was."""
    from limner.cli.show import result

    job = _queue(folder).again(number)
    result(job, [line_of(job)], as_json=as_json)


@app.command(epilog=example("limner jobs remove 3"))
def remove(number: Number, *, folder: Folder = JOBS, as_json: Json = False) -> None:
    """Forget a job that has ended, and what it said. Its run folder stays."""
    from limner.cli.show import result

    _queue(folder).remove(number)
    result({"removed": number}, [f"Job {number} is removed."], as_json=as_json)


@app.command(epilog=example("limner jobs log 3 --follow"))
def log(
    number: Number,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    folder: Folder = JOBS,
    as_json: Json = False,
) -> None:
    """Show what a job said, and its result."""
    from limner.cli.show import result

    queue = _queue(folder)
    if follow and as_json:
        raise BadUsage("--follow shows lines as they come, and --json one object. Leave one of the two out.")
    job = queue.get(number)
    if follow:
        try:
            job = _follow(queue, job)
        except KeyboardInterrupt:
            raise Stopped(f"No longer followed. Job {number} goes on by itself.") from None
        result({}, [*_lines(job.stdout_path), line_of(job)], as_json=False)
        return
    messages, output = _lines(job.stderr_path), _lines(job.stdout_path)
    result({**_plain(job), "stderr": messages, "stdout": output}, [*messages, *output], as_json=as_json)


def line_of(job: "Job") -> str:
    """A job in a line: ``3: running, gpu, 2 min 15 s, Train cat: Training 30/300``."""
    from limner.reporter import duration

    parts = [job.state if job.exit_code in (None, 0) else f"{job.state} ({job.exit_code})", job.device]
    if job.started is not None:
        end = job.ended if job.has_ended else time.time()
        parts += [duration(max(0.0, end - job.started))] if end is not None else []
    return f"{job.number}: {', '.join(parts)}, {job.title}{f': {job.line}' if job.line else ''}"


def _queue(folder: Path) -> "Jobs":
    """The jobs of a folder. What waits since before a restart of the computer goes on."""
    from limner.jobs import Jobs

    queue = Jobs(folder)
    for number in queue.go_on():
        typer.echo(f"Job {number} goes on waiting: its process was gone.", err=True)
    return queue


def _run_of(command: Sequence[str]) -> Path | None:
    """The run folder of a training, where the command tells it."""
    from limner.target import home_of

    if command[0] != "train" or len(command) < 2:
        return None
    for word, after in zip(command, [*command[1:], ""], strict=True):
        if word == "--out" and after:
            return Path(after)
        if word.startswith("--out="):
            return Path(word.removeprefix("--out="))
    return home_of(Path(command[1])) if not command[1].startswith("-") else None


def _follow(queue: "Jobs", job: "Job") -> "Job":
    """Show what a job says until it ends."""
    from limner.cli.show import result

    rest, stream = "", None
    try:
        while True:
            job = queue.get(job.number)  # before what it said is read, so that nothing is missed
            stream = stream or _opened(job.stderr_path)
            *lines, rest = (rest + (stream.read() if stream else "")).split("\n")
            if lines:
                result({}, lines, as_json=False)
            if job.has_ended:
                if rest:
                    result({}, [rest], as_json=False)
                return job
            time.sleep(INTERVAL)
    finally:
        if stream:
            stream.close()


def _opened(path: Path) -> TextIO | None:
    try:
        return path.open(encoding="utf-8", errors="backslashreplace")
    except FileNotFoundError:
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except FileNotFoundError:
        return []


def _plain(job: "Job") -> dict[str, object]:
    from limner.events import plain

    return plain(job)
