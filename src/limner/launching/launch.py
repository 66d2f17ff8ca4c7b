"""The verb ``launch``: plan, choose, write the task, and hand it to SkyPilot."""

import hashlib
import os
import shutil
import subprocess
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from limner.errors import BadUsage, LaunchFailed
from limner.files import write_text
from limner.launching.choose import MachinePlan, cheapest, planned
from limner.launching.clouds import Gpus, parse_gpus, require_cloud
from limner.launching.offers import INSTALL, Offer, offers
from limner.launching.task import RUN, TaskRequest, described, remote_recipe, secrets_of, task, yaml_text
from limner.recipe.schema import Recipe
from limner.recipe.toml import dump
from limner.reporter import Reporter

SYNC_EVERY = 60.0
"""Seconds between two copies of the run folder to this machine."""


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What to launch, and where.

    Attributes:
        recipe: With absolute paths.
        home: The run folder here, which that of the machine is copied to.
        out: The task to write.
        gpu: A GPU and how many of it; "": the cheapest that SkyPilot's catalogue has.
        cloud: "": any.
        spot: Whether the machine may be taken away, for a lower price.
        bucket: Where the run outlives its machine; "": nowhere, or with ``spot`` in a new bucket.
        package: What pip installs there; "": this version of Limner.
        dry_run: Write the task and start nothing.
    """

    recipe: Recipe
    home: Path
    out: Path
    gpu: str = ""
    cloud: str = ""
    spot: bool = False
    bucket: str = ""
    package: str = ""
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What was written, and what is known of the machine."""

    task: Path
    recipe: Path
    machine: MachinePlan
    cost: float | None
    command: tuple[str, ...]
    """What starts it."""
    is_running: bool
    """Whether it was started."""
    lines: tuple[str, ...]
    """For people."""


def launch(request: LaunchRequest, reporter: Reporter) -> Launched:
    """Write the task of a recipe, and start it unless it is a dry run.

    Raises:
        BadUsage: A GPU or a cloud is unknown, SkyPilot is not installed, files or secrets are missing.
        DoesNotFit: The run fits no GPU that is offered.
        LaunchFailed: SkyPilot ends with an error.
    """
    if request.cloud:
        require_cloud(request.cloud, bucket=request.spot or bool(request.bucket), spot=request.spot)
    gpus = parse_gpus(request.gpu) if request.gpu else None
    recipe, mounts = remote_recipe(request.recipe)
    machine = _machine(request, gpus, reporter)
    task_request = TaskRequest(
        recipe=request.recipe,
        machine=machine,
        spot=request.spot,
        bucket=request.bucket,
        package=request.package,
    )
    if request.spot and not request.bucket:
        task_request = replace(task_request, bucket=new_bucket(task_request.name, request.home))
    recipe_file = request.out.absolute().with_name(f"{request.out.stem}.recipe.toml")
    lines = described(machine, spot=request.spot)
    write_text(recipe_file, dump(recipe))
    write_text(request.out, yaml_text(task(task_request, recipe_file, mounts), ["By limner launch.", *lines]))
    command = start_command(task_request, request.out, secrets_of(request.recipe, machine))
    if not request.dry_run:
        start(command, task_request, request.home, reporter)
    return Launched(
        task=request.out,
        recipe=recipe_file,
        machine=machine,
        cost=machine.cost,
        command=tuple(command),
        is_running=not request.dry_run,
        lines=(*lines, *fetching(task_request, request.home)),
    )


def new_bucket(name: str, home: Path) -> str:
    """A name for a bucket that nobody else has, as all users of a cloud share the names; 63 letters at most.

    The same of the same run folder on the same computer, so that the command finds its run again.

    Args:
        name: Of the task.
        home: Of the run, here.
    """
    owner = hashlib.sha256(f"{uuid.getnode()} {home.absolute()}".encode()).hexdigest()
    return f"{name[:54]}-{owner[:8]}"


def _machine(request: LaunchRequest, gpus: Gpus | None, reporter: Reporter) -> MachinePlan:
    """The machine: of the catalogue where there is SkyPilot, else what ``--gpu`` says, without a price."""
    bucket = request.spot or bool(request.bucket)
    if gpus is None or not request.dry_run or has_skypilot():
        choices = _offers(request, gpus, reporter, bucket=bucket)
        if choices:
            return cheapest(request.recipe, choices, reporter)
    assert gpus is not None
    machine = planned(request.recipe, gpus, reporter)
    return replace(machine, cloud=request.cloud.lower())


def _offers(request: LaunchRequest, gpus: Gpus | None, reporter: Reporter, *, bucket: bool) -> list[Offer]:
    """Offers of the catalogue; none where it cannot be had and a dry run can do without."""
    try:
        return offers(gpus, request.cloud.lower(), spot=request.spot, bucket=bucket)
    except BadUsage as error:
        if gpus is None or not request.dry_run:
            raise
        reporter.line(f"No price: {error}")
        return []


def has_skypilot() -> bool:
    """Whether SkyPilot's command is installed."""
    return shutil.which("sky") is not None


def start_command(request: TaskRequest, path: Path, secrets: list[str]) -> list[str]:
    """What starts the task: a managed job, which is started again where it was taken away, or a machine."""
    words = [word for name in secrets for word in ("--secret", name)]
    if request.bucket:
        return ["sky", "jobs", "launch", "--name", request.name, *words, str(path)]
    return ["sky", "launch", "--cluster", request.name, *words, str(path)]


def fetching(request: TaskRequest, home: Path) -> list[str]:
    """How the run folder comes here, and how the machine is given back."""
    if not request.bucket:
        copy = " ".join(sync_command(request, home))
        return [f"The run, as it grows: {copy}", f"Give the machine back: sky down {request.name}"]
    scheme, _, rest = request.bucket.partition("://")
    tool = {
        "s3": f"aws s3 sync {request.bucket} {home}",
        "gs": f"gcloud storage rsync -r {request.bucket} {home}",
    }
    copy = tool.get(scheme if rest else "", f"see its address with `sky storage ls` ({request.bucket})")
    return [f"The run, as it grows: {copy}", f"Break it off: sky jobs cancel --name {request.name}"]


def sync_command(request: TaskRequest, home: Path) -> list[str]:
    """Copies the run folder of a machine here: checkpoints as they appear, whole or not at all."""
    remote = f"{request.name}:{RUN.removeprefix('~/')}/"
    return ["rsync", "-az", "--delay-updates", "--exclude", ".limner-*", remote, f"{home}/"]


def start(command: list[str], request: TaskRequest, home: Path, reporter: Reporter) -> None:
    """Start the task, and copy its run folder here as it grows, where it lies on the machine alone.

    Raises:
        BadUsage: SkyPilot is not installed, or a secret is not in the environment.
        LaunchFailed: SkyPilot ends with an error; its own words are on the terminal.
    """
    if not has_skypilot():
        raise BadUsage(f"SkyPilot is not installed, so that nothing can be started. Install it: {INSTALL}.")
    environment = _environment(secrets_of(request.recipe, request.machine))
    end = threading.Event()
    copy = [] if request.bucket else sync_command(request, home)
    copier = threading.Thread(target=_copy_until, args=(end, copy, home), daemon=True)
    if copy:
        copier.start()
    status = subprocess.run(command, check=False, env=environment, stdout=2).returncode
    end.set()
    if copy:
        copier.join()
    if status:
        raise LaunchFailed(
            f"SkyPilot ended with status {status}; its own words are above. Clouds that it may use: "
            "sky check. What runs and costs: sky status"
        )
    reporter.line(f"The run is in {home}." if copy else "The job is SkyPilot's now: sky jobs queue")


def _environment(secrets: list[str]) -> dict[str, str]:
    """This process's, with the hub's token also where it was stored by ``hf auth login``."""
    from huggingface_hub import get_token

    environment = dict(os.environ)
    if "HF_TOKEN" in secrets and (token := get_token()):
        environment["HF_TOKEN"] = token
    for name in secrets:
        if not environment.get(name):
            remedy = "hf auth login" if name == "HF_TOKEN" else f"export {name}=.."
            raise BadUsage(f"The machine needs {name}, which is not in the environment. Set it: {remedy}")
    return environment


def _copy_until(end: threading.Event, command: list[str], home: Path) -> None:
    """Copy now and then, and once more at the end. A copy that fails is tried again with the next."""
    home.mkdir(parents=True, exist_ok=True)
    is_last = False
    while not is_last:
        is_last = end.wait(SYNC_EVERY)
        with suppress(OSError):
            subprocess.run(command, check=False, capture_output=True)
