"""What ``limner lora info`` says of a file, held against what the programs' own loaders do with it.

    python -m benchmarks.robustness.claims [FOLDER] [--forms 40] [--programs diffusers comfyui]

Files of every family are written in forms that trainers use: prefix, naming and ending of the tensors, the
layers of blocks or those around them too (``benchmarks.robustness.lora_forms``). "loads in X: yes" must mean
that each weight of X's own model becomes what it was and its change, and nothing else may. Stock diffusers
loads them into models of true widths; ComfyUI, sd-scripts and musubi-tuner, from the folder that
``benchmarks.robustness.loaders`` describes, into small ones. Refused forms are counted, with their reason.
The result keeps the row of each program and family that was measured last, and how many forms were drawn.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmarks.robustness import lora_forms, stock
from benchmarks.robustness.loaders import PLACE, TOLERANCE, commit, dense, in_diffusers, randomised
from benchmarks.robustness.programs import CASES, FIRST, FOLDERS, Case, importable
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import outcome
from limner.errors import BadLora
from limner.lora import file
from limner.lora.inspect import inspect
from limner.models.key_map import FamilyKeys
from limner.models.registry import family_keys

DIFFUSERS = "diffusers"
Loader = Callable[[Path, file.LoraFile], str]
"""What a program does with a file: "yes", or what is not as it should be."""


def program_loader(case: Case, names: FamilyKeys) -> tuple[dict[str, tuple[int, ...]], Loader]:
    """Layers of a program's own model in diffusers' names, and its loader."""
    model = case.build()
    randomised(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = in_diffusers(names.family, state)
    layers = {
        name.removesuffix(".weight"): tuple(value.shape)
        for name, value in before.items()
        if name.endswith(".weight") and value.dim() in (2, 4)
    }

    def load(path: Path, expected: file.LoraFile) -> str:
        model.load_state_dict(state)
        try:
            with stock.quiet():
                after = in_diffusers(names.family, case.load(model, load_file(path)))
        except Exception as error:  # noqa: BLE001  a loader raises anything
            return f"{type(error).__name__}: {str(error)[:80]}"
        return _compared(before, after, expected.components[names.component])

    return layers, load


def _compared(before: Mapping[str, Tensor], after: Mapping[str, Tensor], changes: Mapping[str, Any]) -> str:
    wrong = []
    for name, value in before.items():
        change = changes.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        target = value.double() if change is None else dense(change, value)
        size = (target - value).norm() if change is not None else value.double().norm()
        if not (after[name].double() - target).norm() <= TOLERANCE * size.clamp(min=1e-12):
            wrong.append(name)
    return f"{len(wrong)} weights are not what they should be, the first is {wrong[0]}" if wrong else "yes"


def _stock(names: FamilyKeys, path: Path, expected: file.LoraFile) -> str:
    return stock.outcome_of(path, names, expected)


def loaders_of(
    programs: list[str], families: list[str]
) -> Iterator[tuple[str, str, Mapping[str, tuple[int, ...]], Loader]]:
    """(program, family, its layers, its loader); of all families where none is named."""
    for program in programs:
        for family in stock.BASES if program == DIFFUSERS else CASES[program]:
            if families and family not in families:
                continue
            names = family_keys(family)
            if program == DIFFUSERS:
                yield program, family, stock.shapes(names), partial(_stock, names)
            else:
                yield program, family, *program_loader(CASES[program][family], names)


def judged(path: Path, flat: Mapping[str, Tensor], program: str, names: FamilyKeys) -> tuple[str, Any]:
    """What ``info`` says of a file for a program, and the file; or why it is refused, and None."""
    save_file(dict(flat), path)
    try:
        with stock.quiet():
            return inspect(path, names.family).loads[program], file.read(path, names.family)
    except BadLora as error:
        return str(error).removeprefix(f"{path}: "), None


def row_of(
    program: str, family: str, layers: Any, load: Loader, options: argparse.Namespace
) -> dict[str, Any]:
    """A family in a program: how often ``info`` was right, and where it was not.

    Forms are drawn until so many are said to load, and as many not to.
    """
    names, counts, reasons, notes = family_keys(family), Counter[str](), Counter[str](), []
    forms = [form for form in lora_forms.forms_of(names) if program == DIFFUSERS or form.layers != "text"]
    random.Random(f"{options.seed} {program} {family}").shuffle(forms)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        for form in forms[: options.most or None]:
            flat = lora_forms.tensors(form, names, layers)
            if not flat:
                continue
            claim, expected = judged(path, flat, program, names)
            group = "refused" if expected is None else "said to load" if claim == "yes" else "said not to"
            counts[group] += 1
            if expected is None:
                reasons[claim] += 1
            if expected is None or counts[group] > options.forms > 0:
                continue
            fact = load(path, expected)
            counts[f"{group}, held against the loader"] += 1
            if (claim == "yes") != (fact == "yes"):
                counts["wrong"] += 1
                notes.append({"form": str(form), "said": claim, "is": fact})
    draw = {"forms": options.forms, "most": options.most, "seed": options.seed}
    return {"program": program, "family": family, **draw, **counts, "reasons": reasons, "notes": notes}


COLUMNS = (
    "said to load, held against the loader",
    "said not to, held against the loader",
    "wrong",
    "refused",
)


def earlier() -> list[dict[str, Any]]:
    """The rows of the result that is there."""
    path = outcome.RESULTS / "claims.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


def save_row(row: Mapping[str, Any]) -> Path:
    """Save the result, with this row in place of an earlier one."""
    names = ("program", "family")
    rest = [other for other in earlier() if any(other[name] != row[name] for name in names)]
    rows = sorted([*rest, row], key=lambda other: [other[name] for name in names])
    totals = {key: sum(other.get(key, 0) for other in rows) for key in COLUMNS}
    return outcome.save("claims", {**totals, "rows": rows})


def main() -> None:
    """Compare every program that is there, and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "folder", type=Path, nargs="?", default=PLACE, help="folder of the programs' checkouts"
    )
    parser.add_argument("--programs", nargs="*", default=[DIFFUSERS, *CASES], choices=[DIFFUSERS, *CASES])
    parser.add_argument("--families", nargs="*", default=[], help="left out: all")
    parser.add_argument("--forms", type=int, default=10, help="to hold of each family and claim; 0 for all")
    parser.add_argument("--most", type=int, default=40, help="forms to draw of each family; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rest = [program for program in options.programs if program != DIFFUSERS]
    texts = {name: importable(options.folder / FOLDERS[name], FIRST[name]) for name in rest}
    reasons_skipped = {name: text for name, text in texts.items() if text}
    programs = [program for program in options.programs if program not in reasons_skipped]
    wrong = 0
    for program, family, layers, load in loaders_of(programs, options.families):
        row = row_of(program, family, layers, load, options)
        if program != DIFFUSERS:
            row["commit"] = commit(program, options.folder)
        wrong += row.get("wrong", 0)
        print(program, family, *(f"{key} {row.get(key, 0)};" for key in COLUMNS), save_row(row), flush=True)
        for note in (*row["reasons"].items(), *row["notes"]):
            print("   ", note, flush=True)
    for program, reason in reasons_skipped.items():
        print(f"{program} is skipped: {reason}")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
