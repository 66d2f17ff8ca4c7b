"""The run folder: the one place that knows what the files of a run are called. Loads no torch."""

import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from limner.errors import BadData, BadUsage, RunBusy
from limner.files import append_line, remove_dead_drafts, sync_file, sync_folder, write_json, write_text

RUNS = Path("runs")
"""Folder of run folders, where nobody names another."""
STEP_FILE = re.compile(r"step-(\d{6,})\.safetensors")
"""Checkpoints, and LoRAs of single steps."""
CHECKPOINT_ENTRY = "limner.checkpoint"
"""Entry of a header that tells a checkpoint from other safetensors files."""
SAMPLES = re.compile(r"step-(\d{6,})")
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
"""Endings of files that other tools save checkpoints in, and that are never opened here."""
SHOWN_IMAGES = 120
"""Training images that a report shows; of the others it has the names."""
LARGEST = 1e300
"""Of any number in the metrics; JSON has integers without end, which no computation takes."""


SLIDER_STRENGTHS = (-1, 0, 1)
"""Strengths of a slider that each prompt of its samples is generated at."""
STRENGTH = " (strength "
"""Between a prompt and the strength, in the label of a sample."""


class RunDir:
    """One run: where its files are, its measurements, who may write.

    Looking creates nothing; the folder appears with the first file written or the lock. A *step* counts
    finished optimizer steps: 0 is the base model, untouched.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe_path = self.path / "recipe.toml"
        self.plan_path = self.path / "plan.json"
        self.index_path = self.path / "cache" / "index.json"
        self.data_path = self.path / "data.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.status_path = self.path / "status.json"
        self.log_path = self.path / "train.log"
        self.ask_path = self.path / "ask"
        self.checkpoints_path = self.path / "checkpoints"
        self.init_path = self.path / "init.json"
        self.prior_path = self.path / "prior"
        self.teacher_path = self.path / "teacher"
        self.before_path = self.path / "before"
        self.samples_path = self.path / "samples"
        self.prompts_path = self.samples_path / "prompts.json"
        self.earlier_path = self.samples_path / "earlier"
        self.sheet_path = self.samples_path / "sheet.jpg"
        self.lora_path = self.path / "lora.safetensors"
        self.loras_path = self.path / "loras"
        self.embedding_path = self.path / "embedding.safetensors"
        self.embeddings_path = self.path / "embeddings"
        self.model_path = self.path / "model"
        self.predictor_path = self.path / "predictor"
        self.judge_path = self.path / "judge.json"
        self.judge_images_path = self.path / "judge"
        self.judge_sheet_path = self.judge_images_path / "sheet.jpg"
        self.report_path = self.path / "report.html"
        self.track_path = self.path / "track"
        self.track_id_path = self.track_path / "id"

    def lora_path_for(self, tool: str) -> Path:
        """The LoRA as another tool than diffusers reads it: ``lora-comfyui.safetensors``."""
        return self.path / f"lora-{tool}.safetensors"

    # who may write -----------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out of this folder, and sweep out what a killed one left behind.

        The operating system drops the lock with the process, so a killed run never blocks the next.

        Raises:
            RunBusy: Another process holds it; the message says which, where and since when.
            BadUsage: The folder cannot be made or written to.
        """
        lock, holder = FileLock(self.path / "lock"), self.path / "lock.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            raise RunBusy(self._busy(holder)) from None
        except OSError as error:
            raise BadUsage(
                f"{self.path} cannot be used as a run folder: {error.strerror}. Choose another with --out."
            ) from error
        try:
            now = datetime.now().astimezone().isoformat(" ", "seconds")
            write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now})
            self._sweep()
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def _busy(self, holder: Path) -> str:
        try:
            owner = json.loads(holder.read_text())
            name = f"process {owner['pid']} on {owner['host']} has held it since {owner['since']}"
        except (OSError, ValueError, LookupError, TypeError):
            name = "another process holds it"  # it has the lock and has not signed yet
        return f"{self.path} is in use: {name}. Wait for it, stop it, or choose another folder with --out."

    def _sweep(self) -> None:
        folders = (
            self.path,
            self.index_path.parent,
            self.checkpoints_path,
            self.loras_path,
            self.embeddings_path,
            self.samples_path,
        )
        for folder in (*folders, *(path for path in self.samples_path.glob("*") if path.is_dir())):
            remove_dead_drafts(folder, even_living=True)

    # measurements ------------------------------------------------------------------------------------------

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row of measurements. It has ``step``, and numbers by name: ``loss``, ``held_out``, ...

        Raises:
            ValueError: A number is not finite; such a run stops before it logs.
        """
        append_line(self.metrics_path, json.dumps(dict(row), allow_nan=False))

    def sync_metrics(self) -> None:
        """Wait until the rows are on the disk: a loss of power leaves no checkpoint without its rows."""
        if self.metrics_path.is_file():
            sync_file(self.metrics_path)
            sync_folder(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """Every readable row, oldest first. A line torn by a kill is passed over; ``truncate`` removes it."""
        return [row for row in map(_row, self._lines()) if row is not None]

    def missing_rows(self) -> list[tuple[int, int]]:
        """(first, last) of each stretch of steps that were taken and left no loss: a row was lost or damaged.

        A run logs every step, and all rows up to a checkpoint are on the disk before it is.
        """
        steps = {row["step"] for row in self.metrics() if "loss" in row}
        last = max((*steps, *(step for step, _ in self.checkpoints())), default=0)
        bounds = [0, *sorted(steps & set(range(1, last + 1))), last + 1]
        return [(a + 1, b - 1) for a, b in pairwise(bounds) if b > a + 1]

    def truncate(self, step: int) -> int:
        """Forget the rows after ``step`` and the lines that cannot be read, before a run goes on from there.

        Atomic. A run from the very start passes -1.

        Returns:
            How many unreadable lines went: 1 after a kill in the middle of a line; more means damage.
        """
        lines = self._lines()
        rows = [_row(line) for line in lines]
        keep = [
            line for line, row in zip(lines, rows, strict=True) if row is not None and row["step"] <= step
        ]
        if keep != lines:
            write_text(self.metrics_path, b"".join(keep).decode())
        return rows.count(None)

    def _lines(self) -> list[bytes]:
        return self.metrics_path.read_bytes().splitlines(keepends=True) if self.metrics_path.is_file() else []

    # checkpoints -------------------------------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        """Where the state after ``step`` steps is kept."""
        return self.checkpoints_path / f"step-{step:06d}.safetensors"

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, path) of every checkpoint, newest first. ``training.checkpoint`` tells which are whole."""
        return _steps_in(self.checkpoints_path)

    def foreign_checkpoints(self) -> list[Path]:
        """Files among the checkpoints that other tools would read as such."""
        return sorted(
            path for path in _entries(self.checkpoints_path) if path.suffix.lower() in PICKLE_SUFFIXES
        )

    def best(self) -> int | None:
        """The checkpoint with the least validation loss, by step; None if none was measured."""
        return (self._best_of(self.checkpoints()) or (None,))[0]

    def _best_of(self, files: list[tuple[int, Path]]) -> tuple[int, float] | None:
        """(step, loss) of the least validation loss among steps that have a file."""
        steps = {step for step, _ in files}
        losses = [(row["held_out"], row["step"]) for row in self.metrics() if _finite(row.get("held_out"))]
        least = min((pair for pair in losses if pair[1] in steps), default=None)
        return least and (least[1], least[0])

    def prune(self, keep: int, best: int | None, whole: Callable[[Path], bool]) -> list[Path]:
        """Delete all checkpoints but the newest ``keep`` (at least 1) and the one of step ``best``.

        Unless one of these is ``whole``, the newest whole one among the others stays too: a run is never left
        with nothing to go on from.

        Returns:
            The files deleted.
        """
        checkpoints = self.checkpoints()
        keep_steps = {step for step, _ in checkpoints[: max(keep, 1)]} | {best}
        spare = [path for step, path in checkpoints if step not in keep_steps]
        if spare and not any(whole(path) for step, path in checkpoints if step in keep_steps):
            resumable = next((path for path in spare if whole(path)), None)
            spare = [path for path in spare if path != resumable]
        for path in spare:
            path.unlink(missing_ok=True)
        return spare

    def mark_damaged(self, path: Path) -> Path:
        """Rename a damaged checkpoint, so that it is neither resumed from nor counted among those to keep."""
        return path.replace(path.with_name(path.name + ".damaged"))

    # LoRAs of single steps ---------------------------------------------------------------------------------

    def step_lora_path(self, step: int) -> Path:
        """Where the LoRA after ``step`` steps is kept, beside the newest one in ``lora.safetensors``."""
        return self.loras_path / f"step-{step:06d}.safetensors"

    def step_embedding_path(self, step: int) -> Path:
        """Where the token vectors after ``step`` steps are kept, beside the newest in ``embedding``."""
        return self.embeddings_path / f"step-{step:06d}.safetensors"

    def step_loras(self) -> list[tuple[int, Path]]:
        """(step, path) of the LoRA of every checkpoint that was ever written, newest first.

        Of a run that trains token vectors alone, of these.
        """
        return _steps_in(self.loras_path) or _steps_in(self.embeddings_path)

    def best_lora(self) -> int | None:
        """The step of the one with the least validation loss in the metrics; None if none was measured."""
        return (self.best_validation() or (None,))[0]

    def best_validation(self) -> tuple[int, float] | None:
        """(step, validation loss) of that one."""
        return self._best_of(self.step_loras())

    def step_lora(self, step: int | str) -> Path:
        """The LoRA after a step.

        Args:
            step: A number, "best" by validation loss, or "last".

        Raises:
            BadUsage: There is none.
        """
        paths = dict(self.step_loras())
        number = {"last": max(paths, default=None), "best": self.best_lora()}.get(str(step), step)
        if number in paths:
            return paths[int(number)]
        names = ", ".join(map(str, sorted(paths)))
        remedy = (
            f"It has those of {names}." if names else f"Each checkpoint brings one: limner train {self.path}"
        )
        raise BadUsage(f"{self.path} has no LoRA of step {step}. {remedy}")

    def drop_step_loras(self, step: int) -> None:
        """Delete the LoRAs after ``step``, before a run goes on from there."""
        for number, path in (*_steps_in(self.loras_path), *_steps_in(self.embeddings_path)):
            if number > step:
                path.unlink(missing_ok=True)

    # samples and data --------------------------------------------------------------------------------------

    def sample_path(self, step: int, index: int) -> Path:
        """Where the picture of prompt ``index`` after ``step`` steps is kept; step 0 is the base's."""
        return self.samples_path / f"step-{step:06d}" / f"{index:02d}.png"

    def samples(self) -> dict[int, dict[int, Path]]:
        """Step -> prompt index -> picture, steps and indices ascending."""
        images_by_step: dict[int, dict[int, Path]] = {}
        for folder in _entries(self.samples_path):
            match = SAMPLES.fullmatch(folder.name)
            images = [path for path in _entries(folder) if path.suffix == ".png" and path.stem.isdecimal()]
            if match and images:
                images_by_step[int(match[1])] = {int(path.stem): path for path in sorted(images)}
        return dict(sorted(images_by_step.items()))

    def write_plan(self, record: Mapping[str, Any]) -> bool:
        """Keep a plan; False where there is no run folder yet."""
        if not self.path.is_dir():
            return False
        write_json(self.plan_path, dict(record))
        return True

    def write_prompts(self, prompts: list[str]) -> int:
        """Record what the samples show: prompt ``i`` belongs to the pictures ``i``.

        Pictures that show another prompt so far are moved to ``samples/earlier``.

        Returns:
            How many were moved.
        """
        count = 0
        try:
            before = self.prompts()
        except BadData:  # what they show is not known, so they stay
            before = prompts
        for step, images in self.samples().items() if prompts != before else ():
            for index, path in images.items():
                prompt = before[index : index + 1]
                if prompt != prompts[index : index + 1]:
                    mark = hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:8]
                    self.earlier_path.mkdir(exist_ok=True)
                    path.replace(self.earlier_path / f"step-{step:06d}-{index:02d}-{mark}.png")
                    count += 1
        write_json(self.prompts_path, prompts)
        return count

    def prompts(self) -> list[str]:
        """The prompts of the samples, empty before there are any.

        Raises:
            BadData: The file is damaged.
        """
        prompts = self.read(self.prompts_path)
        return [str(prompt) for prompt in prompts] if isinstance(prompts, list) else []

    def data(self) -> dict[str, Any]:
        """``{"images": [..], "rejected": [..]}`` as the cache verb wrote it, empty before that.

        Raises:
            BadData: The file is damaged.
        """
        data = self.read(self.data_path)
        return data if isinstance(data, dict) else {}

    def read(self, path: Path) -> Any:
        """The value of a JSON file of this run, None where there is no file.

        Raises:
            BadData: The file is damaged.
        """
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise BadData(f"{path} cannot be read ({error}). Delete it and run the command again.") from error


def run_of(path: Path) -> RunDir | None:
    """The run that a file of a LoRA or a checkpoint lies in; None where it lies elsewhere."""
    run = RunDir(path.parent.parent)
    if path.parent not in (run.loras_path, run.embeddings_path, run.checkpoints_path):
        run = RunDir(path.parent)
    return run if run.recipe_path.is_file() else None


def step_of(path: Path) -> int | None:
    """The step of a checkpoint or of a step's LoRA, by its name."""
    match = STEP_FILE.fullmatch(path.name)
    return int(match[1]) if match else None


def _steps_in(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the files of steps in a folder, newest first."""
    steps = ((step_of(path), path) for path in _entries(folder))
    return sorted(((step, path) for step, path in steps if step is not None), reverse=True)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _row(line: bytes) -> dict[str, Any] | None:
    """The row of a whole line, None for a torn or foreign one."""
    try:
        row = json.loads(line.decode()) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not (isinstance(row, dict) and type(row.get("step")) is int):
        return None
    return row if all(_finite(row.get(name, 0)) for name in ("step", "loss", "held_out")) else None


def _finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST  # pyright: ignore[reportArgumentType]
