"""Damaged inputs through the real verbs: does anything crash, pass in silence, or spoil a run folder?

    python -m benchmarks.robustness.fuzz [--only cache] [--seed 0] [--out FILE.json]

Each case puts one damaged thing into a fresh copy of a small training (random FLUX base, six images, a run
stopped at step 4 of 6), runs the command that meets it, then puts the good thing back and trains to the end.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.outcome import save, table
from benchmarks.robustness.damage import Case, captions, images, metadata, remove
from benchmarks.robustness.damage_models import bases, loras
from benchmarks.robustness.damage_state import caches, checkpoints, recipes, run_files
from PIL import Image

from limner.cli import main

KINDS = (images, captions, metadata, recipes, caches, checkpoints, run_files, loras, bases)
OUTCOMES = ("named, went on", "refused", "crashed", "silent", "hung", "unusable after")
BAD = OUTCOMES[2:]
PATIENCE = 300
"""Seconds until a command counts as hung."""
NOBODY = 65534


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    kind: str
    name: str
    outcome: str
    status: int | None
    said: str
    seconds: float


class Hung(BaseException):
    """A command took too long."""


class Field:
    """A small training in a folder, and a clean copy of it to start each case from."""

    def __init__(self, root: Path, base: Path) -> None:
        self.at, self.clean = root / "field", root / "clean"
        self.at.mkdir(parents=True)
        shutil.copytree(base, self.at / "base")
        _photos(self.at / "photos")
        (self.at / "recipe.toml").write_text(RECIPE)
        with self._inside():
            _command(("train", "recipe.toml", "--out", "run"))
            (self.at / "run" / "lora.safetensors").rename(self.at / "lora.safetensors")
            (self.at / "run" / "report.html").unlink()
            file = self.at / "run" / "recipe.toml"
            file.write_text(file.read_text().replace("steps = 4", "steps = 6", 1))
            shutil.copyfile(file, self.at / "recipe.toml")
        self.at.rename(self.clean)

    def reset(self) -> None:
        """A fresh copy."""
        if self.at.exists():
            _unlock(self.at)
            shutil.rmtree(self.at)
        shutil.copytree(self.clean, self.at)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        before = Path.cwd()
        os.chdir(self.at)
        os.environ["LIMNER_CACHE"] = str(self.at / "cache")
        try:
            yield
        finally:
            os.chdir(before)

    def try_out(self, case: Case, seed: int) -> Outcome:
        """Damage, run the command, mend, train to the end."""
        self.reset()
        draw = random.Random(f"{seed} {case.kind} {case.name}")
        target, names = case.target, case.named
        if target == "CACHE":
            target, names = self._entry(draw), case.named
        path = self.at / target
        start = time.monotonic()
        with self._inside():
            case.spoil(path, draw)
            meet = _as_nobody if needs_nobody(case) else _as_we_are
            status, output = meet(self.at, case.verb)
            outcome = _judge(status, output, names)
            if (self.at / "UNPICKLED").exists():
                outcome, output = "crashed", "a pickle was loaded"
            if outcome not in BAD:
                self._mend(target)
                out = "other" if "other" in case.verb else "run"
                after, later = _command(("train", "recipe.toml", "--out", out))
                if after != 0 or not (self.at / out / "lora.safetensors").is_file():
                    outcome, output = "unusable after", f"{output}\n--- then {after}:\n{later}"
        return Outcome(case.kind, case.name, outcome, status, output, round(time.monotonic() - start, 2))

    def _entry(self, draw: random.Random) -> str:
        index = json.loads((self.at / "run" / "cache" / "index.json").read_text())
        address = draw.choice(index["addresses"])
        return f"cache/{address[:2]}/{address}.safetensors"

    def _mend(self, target: str) -> None:
        """Take the damage away: a good input comes back, a damaged part of a run or the cache is removed."""
        path, good = self.at / target, self.clean / target
        if path.exists() or path.is_symlink():
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
            remove(path)
        folders = ("cache/", "run/")
        if good.exists() and (not target.startswith(folders) or target == "run/recipe.toml"):
            (shutil.copytree if good.is_dir() else shutil.copyfile)(good, path)
        for other in ("metadata.jsonl", "metadata.csv"):
            remove(self.at / "photos" / other)


def _photos(folder: Path) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(6):
        small = draw.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((48, 48)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a thing number {number}\n")


RECIPE = """
base = "./base"
[data]
images = "photos"
trigger = ""
resolution = 32
min_side = 16
[lora]
rank = 2
[train]
steps = 4
save_every = 2
[sample]
every = -1
prompts = ["a thing"]
steps = 2
"""


def _unlock(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o700 if path.is_dir() else 0o600))


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def needs_nobody(case: Case) -> bool:
    """Whether the damage is a permission, which root would not notice."""
    return "unreadable" in case.name


def can_be_met(case: Case) -> bool:
    """Whether a case can be tried here: a user without power must be able to reach this environment."""
    if not needs_nobody(case) or os.geteuid() != 0:
        return True
    os.seteuid(NOBODY)
    try:
        return os.access(sys.prefix, os.R_OK | os.X_OK, effective_ids=True)
    finally:
        os.seteuid(0)


def _as_we_are(field: Path, arguments: Sequence[str]) -> tuple[int | None, str]:
    del field
    return _command(arguments)


def _as_nobody(field: Path, arguments: Sequence[str]) -> tuple[int | None, str]:
    """Run a command without root's power to read everything."""
    if os.geteuid() != 0:
        return _command(arguments)
    for path in [field, *field.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        return _command(arguments)
    finally:
        os.seteuid(0)


def _command(arguments: Sequence[str]) -> tuple[int | None, str]:
    """Exit status and stderr of a command; status None when it crashed or hung, with the reason."""
    stream = io.StringIO()
    with redirect_stderr(stream), redirect_stdout(io.StringIO()), _alarm():
        try:
            main(arguments)
        except SystemExit as ending:
            return int(ending.code or 0), stream.getvalue()
        except Hung:
            return None, "hung"
        except BaseException:  # noqa: BLE001  whatever escapes is what is looked for
            return None, stream.getvalue() + traceback.format_exc()
    return 0, stream.getvalue()


def _judge(status: int | None, output: str, names: Sequence[str]) -> str:
    if status is None:
        return "hung" if output == "hung" else "crashed"
    errors = [line for line in output.splitlines() if line.startswith("limner: error: ")]
    if "Traceback" in output or len(errors) != (status != 0) or status not in (0, 1, 2):
        return "crashed"
    stream = errors[0] if errors else output
    if not any(word in stream for word in names):
        return "silent"
    return "refused" if status else "named, went on"


def survey(field: Field, cases: Iterable[Case], seed: int, *, loud: bool = False) -> list[Outcome]:
    """Try every case."""
    outcomes = []
    for case in cases:
        outcomes.append(field.try_out(case, seed))
        if loud and outcomes[-1].outcome in BAD:
            last = outcomes[-1]
            print(
                f"{last.kind}: {last.name}: {last.outcome} ({last.status})\n{last.said[-1500:]}\n", flush=True
            )
    return outcomes


def counts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Kind -> outcome -> how many."""
    kinds = dict.fromkeys(case_outcome.kind for case_outcome in outcomes)
    tally = Counter((case_outcome.kind, case_outcome.outcome) for case_outcome in outcomes)
    return {kind: {outcome: tally[kind, outcome] for outcome in OUTCOMES} for kind in kinds}


def run() -> int:
    """Try everything, print the table, write the JSON. Exit status 1 when anything is bad."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds or names that contain this")
    parser.add_argument("--list", action="store_true", help="also print what each case said")
    wish = parser.parse_args()
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
    from tiny import save_flux

    all_cases = [case for kind in KINDS for case in kind() if wish.only in f"{case.kind}: {case.name}"]
    cases = [case for case in all_cases if can_be_met(case)]
    if len(cases) < len(all_cases):
        print(
            f"{len(all_cases) - len(cases)} cases need a user without power, who cannot reach {sys.prefix}."
        )
    with tempfile.TemporaryDirectory(prefix="limner-fuzz-") as root:
        Path(root).chmod(0o755)
        os.environ["XDG_CACHE_HOME"] = str(Path(root) / "home")
        Path(root, "home").mkdir(mode=0o777)
        Path(root, "home").chmod(0o777)
        outcomes = survey(
            Field(Path(root) / "place", save_flux(Path(root) / "tiny")), cases, wish.seed, loud=True
        )
    if wish.list:
        for case_outcome in outcomes:
            print(
                f"{case_outcome.kind}: {case_outcome.name}: {case_outcome.outcome} ({case_outcome.status})\n"
                f"    {case_outcome.said.strip()[-600:]}"
            )
    tally = counts(outcomes)
    total = {outcome: sum(row[outcome] for row in tally.values()) for outcome in OUTCOMES}
    rows = [
        [kind, str(sum(row.values())), *map(str, row.values())]
        for kind, row in (tally | {"all": total}).items()
    ]
    print(table(["damaged", "cases", *OUTCOMES], rows))
    bad = [asdict(case_outcome) for case_outcome in outcomes if case_outcome.outcome in BAD]
    if not wish.only:
        save("fuzz", {"seed": wish.seed, "cases": len(outcomes), "table": tally, "bad": bad})
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run())
