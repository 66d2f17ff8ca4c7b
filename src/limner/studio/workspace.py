"""The folder that the studio works in: what lies where, and nothing outside of it.

Whatever the studio shows is read from these files at every drawing, so that a reload, a second tab and a
restarted server all show the same.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from limner.data.formats import SUFFIXES
from limner.data.listing import listed
from limner.errors import BadUsage
from limner.files import write_text
from limner.jobs import Job, Jobs
from limner.run_folder import RunDir

ENVIRONMENT = "LIMNER_STUDIO_WORKSPACE"
"""Environment variable that tells the pages their workspace."""
DEPTH = 3
"""Folders below the workspace in which images and runs are looked for."""
NAME = re.compile(r"[^\w .-]+")
"""What the name of a new folder or file may not have."""
LONGEST_NAME = 60
REPEATS = re.compile(r"\d+_")
"""How kohya's folders begin: the number is how often an epoch shows their images."""


@dataclass(frozen=True)
class Workspace:
    """A folder, and what the studio keeps in it.

    ``images/`` has folders of images, ``recipes/`` recipes, ``runs/`` run folders, ``loras/`` LoRA files that
    were made without a run, ``outputs/`` what was generated; ``.limner/`` the jobs and small copies of
    pictures.
    """

    root: Path

    def __post_init__(self) -> None:
        """Make the root real, so that a link in it cannot lead out."""
        object.__setattr__(self, "root", self.root.resolve())

    @property
    def images(self) -> Path:
        """Where new folders of images are made."""
        return self.root / "images"

    @property
    def recipes(self) -> Path:
        """Where recipes are written."""
        return self.root / "recipes"

    @property
    def runs(self) -> Path:
        """Where run folders lie."""
        return self.root / "runs"

    @property
    def loras(self) -> Path:
        """LoRA files that were made without a run."""
        return self.root / "loras"

    @property
    def outputs(self) -> Path:
        """What was generated."""
        return self.root / "outputs"

    @property
    def thumbnails(self) -> Path:
        """Small copies of pictures, which can be deleted at any time."""
        return self.root / ".limner" / "thumbnails"

    @cached_property
    def jobs(self) -> Jobs:
        """What runs, waits or has ended."""
        return Jobs(self.root / ".limner" / "jobs")

    def inside(self, name: str | Path) -> Path:
        """The path that a text from the browser names, if it lies in the workspace.

        Args:
            name: Relative to the root, or absolute.

        Raises:
            BadUsage: It leads out of the workspace, also by way of a link, or it is no path.
        """
        try:
            path = (self.root / name).resolve()
            path.relative_to(self.root)
        except (ValueError, OSError, RuntimeError) as error:
            raise BadUsage(
                f"{str(name)!r} is not in the workspace {self.root}. Name what lies in it, or start "
                "the studio with another --workspace."
            ) from error
        return path

    def named(self, path: Path) -> str:
        """How a path is shown: relative to the root where it lies in it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def new_folder(self, parent: Path, name: str) -> Path:
        """Make a folder whose name is like ``name``; a number is added where it is there already.

        Raises:
            BadUsage: It cannot be made.
        """
        stem = safe_name(name)
        for number in range(1, 1000):
            path = self.inside(parent / (stem if number == 1 else f"{stem}-{number}"))
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise BadUsage(f"{path} cannot be made: {error.strerror}. Free the workspace.") from error
            return path
        raise BadUsage(f"{parent} has 1000 folders called {stem}. Choose another name.")

    def image_folders(self) -> list[Path]:
        """Folders that hold images, by name; those of runs and what was generated are left out.

        Of kohya's folders ``cats/10_cat`` it is the one above, ``cats``, which training is given.
        """
        exclusions = {self.runs, self.outputs, self.loras}
        folders = {path for path in _folders(self.root, exclusions) if _has_images(path)}
        repeats = {path for path in folders if REPEATS.match(path.name) and path != self.root}
        return sorted(folders - repeats | {path.parent for path in repeats}, key=self.named)

    def images_in(self, folder: Path) -> list[Path]:
        """The images of a folder, as a training reads them, by name."""
        return [folder / name for name in listed(folder).images] if folder.is_dir() else []

    def run_folders(self) -> list[RunDir]:
        """Runs, the one that was touched last first."""
        runs = [RunDir(path) for path in _folders(self.runs, set()) if (path / "recipe.toml").is_file()]
        return sorted(runs, key=_touched, reverse=True)

    def lora_files(self) -> list[Path]:
        """Finished LoRAs of runs, then other LoRA files, by name."""
        files = [run.lora_path for run in self.run_folders() if run.lora_path.is_file()]
        if self.loras.is_dir():
            files += sorted(self.loras.glob("*.safetensors"))
        return files

    def recipe_files(self) -> list[Path]:
        """Recipes that were written here, by name."""
        return sorted(self.recipes.glob("*.toml")) if self.recipes.is_dir() else []

    def jobs_of(self, run: RunDir) -> list[Job]:
        """Jobs of a run, the newest last."""
        path = run.path.resolve()
        return [job for job in self.jobs.all() if job.run is not None and job.run.resolve() == path]

    def require_writable(self) -> None:
        """Raise BadUsage where nothing can be written."""
        try:
            write_text(self.root / ".limner" / "writable", "")
        except OSError as error:
            raise BadUsage(
                f"{self.root} cannot be written to: {error.strerror}. Choose another with --workspace."
            ) from error


def current() -> Workspace:
    """The workspace of this process, by the environment; else the working directory."""
    return Workspace(Path(os.environ.get(ENVIRONMENT) or Path.cwd()))


def safe_name(text: str) -> str:
    """A text as the name of a file or folder: letters, digits, blanks, dots and dashes, at most 60."""
    return NAME.sub("-", text).strip(" .-")[:LONGEST_NAME].strip(" .-") or "new"


def _touched(run: RunDir) -> float:
    paths = (run.status_path, run.metrics_path, run.recipe_path)
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


def _folders(root: Path, exclusions: set[Path], depth: int = DEPTH) -> Iterator[Path]:
    """A folder and those below it. Hidden ones, links and those to skip are passed over."""
    if root in exclusions or not root.is_dir():
        return
    yield root
    if depth:
        try:
            entries = sorted(os.scandir(root), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _folders(Path(entry.path), exclusions, depth - 1)


def _has_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(Path(entry.name).suffix.lower() in SUFFIXES for entry in entries)
    except OSError:
        return False
