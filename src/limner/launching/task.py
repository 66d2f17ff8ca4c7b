"""A SkyPilot task: what the machine is, what is taken there, what runs, and where the run outlives it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from limner.errors import BadUsage
from limner.files import user_path
from limner.launching.choose import MachinePlan
from limner.recipe.optimizers import optimizer_of
from limner.recipe.schema import Recipe
from limner.recipe.toml import PATHS, change, get

HOME = "~/limner"
"""Folder on the machine."""
RUN = f"{HOME}/run"
"""The run folder there: a bucket, where the run outlives its machine."""
RECIPE = f"{HOME}/recipe.toml"
FILES = "files"
"""Where there everything lies that the recipe names."""
NAMES = ("base", "components_from", "train.init", "train.adapter", "sample.base")
"""Keys of the recipe that name a file, a folder, or something that is fetched."""
PYTHON = "3.12"
INSTALL_UV = "command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh"


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """What is launched.

    Attributes:
        recipe: With absolute paths.
        machine: Where.
        spot: Whether the machine may be taken away, for a lower price.
        bucket: Address of a bucket (s3://name), or a name for a new one; "": the machine alone has the run.
        package: What pip installs: a requirement, or a wheel here; "": this version of Limner.
    """

    recipe: Recipe
    machine: MachinePlan
    spot: bool = False
    bucket: str = ""
    package: str = ""

    @property
    def name(self) -> str:
        """Of the task: letters, digits and hyphens, as every cloud takes it."""
        return f"limner-{re.sub(r'[^a-z0-9]+', '-', self.recipe.name.lower()).strip('-')[:40] or 'run'}"


def remote_recipe(recipe: Recipe) -> tuple[Recipe, dict[str, Path]]:
    """The recipe as it is there, and path there -> path here of all that it names.

    Raises:
        BadUsage: Something that it names is not here.
    """
    changes: dict[str, Any] = {"data.cache": None}
    mounts: dict[str, Path] = {}

    def moved(key: str, path: Path, number: int | None = None) -> str:
        if not path.exists():
            raise BadUsage(f"{key} is {path}, which is not here, so that it cannot be taken along.")
        name = key.replace(".", "-") + ("" if number is None else f"-{number}")
        target = f"{FILES}/{name}{path.suffix if path.is_file() else ''}"
        mounts[f"{HOME}/{target}"] = path
        return target

    for key in PATHS:
        value = get(recipe, key)
        if key == "data.cache" or not value or isinstance(value, str):  # a word such as "alpha" is no path
            continue
        if isinstance(value, tuple):
            changes[key] = tuple(moved(key, path, number) for number, path in enumerate(value, 1))
        else:
            changes[key] = moved(key, value)
    for key in NAMES:
        path = user_path(get(recipe, key))
        if get(recipe, key) and (path.is_absolute() or path.exists()):
            changes[key] = f"./{moved(key, path)}"
    return change(recipe, changes), mounts


def secrets_of(recipe: Recipe, machine: MachinePlan) -> list[str]:
    """Names of environment variables that the machine needs: never written, handed over at the start."""
    trackers = recipe.track.with_
    needs = {"HF_TOKEN": machine.gated, "WANDB_API_KEY": "wandb" in trackers}
    return [name for name, is_needed in needs.items() if is_needed]


def task(request: TaskRequest, recipe_file: Path, mounts: Mapping[str, Path]) -> dict[str, Any]:
    """The task as SkyPilot's YAML has it.

    Args:
        request: What is launched.
        recipe_file: The recipe as it is there, here.
        mounts: Path there -> path here, as :func:`remote_recipe` gives them.
    """
    machine = request.machine
    resources: dict[str, Any] = {
        "accelerators": machine.gpus.text,
        "memory": f"{machine.memory}+",
        "disk_size": machine.disk,
    }
    if machine.cloud:
        resources = {"infra": machine.cloud, **resources}
    if request.spot:
        resources["use_spot"] = True
    file_mounts: dict[str, Any] = {RECIPE: str(recipe_file)}
    file_mounts |= {remote: str(local) for remote, local in mounts.items()}
    if wheel := _wheel(request.package):
        file_mounts[f"{HOME}/{wheel.name}"] = str(wheel)
    if request.bucket:
        file_mounts[RUN] = _storage(request.bucket)
    secrets = secrets_of(request.recipe, machine)
    return {
        "name": request.name,
        "resources": resources,
        **({"secrets": dict.fromkeys(secrets)} if secrets else {}),
        "file_mounts": file_mounts,
        "setup": _setup(request),
        "run": _run(machine),
    }


def _storage(bucket: str) -> dict[str, Any]:
    """A bucket mounted through a cache on the disk, as a run folder is appended to and renamed in."""
    bucket_key = "source" if "://" in bucket else "name"
    return {bucket_key: bucket, "mode": "MOUNT_CACHED"}


def _wheel(package: str) -> Path | None:
    path = user_path(package)
    return path.absolute() if package.endswith(".whl") and path.is_file() else None


def _setup(request: TaskRequest) -> str:
    """Install Limner, once for each machine: a second call finds everything there."""
    recipe = request.recipe
    extra = {
        "gpu",
        optimizer_of(recipe.train.optimizer).extra,
        *(("track",) if recipe.track.with_ else ()),
    } - {""}
    extras = ",".join(sorted(extra))
    wheel = _wheel(request.package)
    package = f"{HOME}/{wheel.name}[{extras}]" if wheel else request.package
    requirement = package or f"limner[{extras}]=={version('limner')}"
    word = requirement if wheel else f"'{requirement}'"  # the shell knows what ~ is
    return "\n".join(
        [
            "set -e",
            INSTALL_UV,
            'export PATH="$HOME/.local/bin:$PATH"',
            f"uv venv --allow-existing --python {PYTHON} {HOME}/venv",
            f"uv pip install --python {HOME}/venv/bin/python {word}",
            "",
        ]
    )


def _run(machine: MachinePlan) -> str:
    """Train; the same command goes on from the newest whole checkpoint, where the run folder has one."""
    count = machine.gpus.count
    processes = f" --processes {count}" if count > 1 else ""
    return f"set -e\n{HOME}/venv/bin/limner train {RECIPE} --out {RUN}{processes}\n"


def described(machine: MachinePlan, *, spot: bool) -> list[str]:
    """The machine and the plan in a few lines."""
    suffix = (f" on {machine.cloud}" if machine.cloud else "") + (" spot" if spot else "")
    lines = [
        f"{machine.gpus.text}{suffix}: {machine.reserved / 2**30:.1f} GB of each GPU, "
        f"{machine.memory} GiB of RAM, {machine.disk} GB of disk",
        f"about {duration(machine.hours)} of computing, without fetching the base",
    ]
    if machine.price is not None:
        lines[1] += f"; at $ {machine.price:.2f} an hour about $ {machine.cost:.2f}"
    return lines


def duration(hours: float) -> str:
    """``duration(0.51) == "31 min"``, ``duration(2.04) == "2.0 h"``."""
    return f"{ceil(60 * hours)} min" if hours < 1 else f"{hours:.1f} h"


def yaml_text(value: Mapping[str, Any], notes: list[str]) -> str:
    """The task as YAML with notes in front of it; texts of several lines stand as they are."""
    head = "".join(f"# {note}\n" for note in notes)
    return head + yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=200)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
