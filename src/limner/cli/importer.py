"""``limner import``: another trainer's configuration as a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.cli.options import Json
from limner.errors import BadUsage

if TYPE_CHECKING:
    from limner.importing.importer import Imported


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(name="import")(import_)


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A trainer's TOML, YAML or JSON file, or a script with its command."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("recipe.toml"),
    as_json: Json = False,
) -> None:
    """Read the configuration of another trainer into a recipe, and say what became of each line.

    kohya's sd-scripts, kohya_ss and musubi-tuner, ai-toolkit, OneTrainer, SimpleTuner, DiffSynth-Studio,
    diffusers' examples. Example: limner import train_cat.sh --out cat.toml
    """
    from limner.cli.show import result
    from limner.files import write_text
    from limner.importing.importer import import_recipe
    from limner.recipe.toml import commented, dump, placed

    if out.exists():
        raise BadUsage(f"{out} exists. Remove it, or write another file with --out.")
    translation = import_recipe(file)
    sources = {
        assignment.partition(" = ")[0]: f"{row.key} of {file.name}"
        for row in translation.rows
        for assignment in row.becomes.split(", ")
        if assignment
    }
    folder = Path.cwd()
    recipe = translation.recipe if out.resolve().parent == folder else placed(translation.recipe, folder)
    write_text(out, commented(recipe, sources))
    value = {
        "recipe": out,
        "trainer": translation.trainer,
        "counts": translation.counts,
        "rows": translation.rows,
        "toml": dump(recipe),
    }
    result(value, [*lines(translation), "", f"{out}", f"Next: limner plan {out}"], as_json=as_json)


def lines(translation: "Imported") -> list[str]:
    """The table for people: what differs first, and what is the same in fewer words."""
    order = ("cannot be had", "unknown", "translated", "kept", "the plan decides", "always so", "off")
    text = [f"A configuration of {translation.trainer}."]
    for outcome in order:
        rows = [row for row in translation.rows if row.outcome == outcome]
        if not rows:
            continue
        text += ["", f"{outcome} ({len(rows)})"]
        if outcome in ("the plan decides", "off"):
            text.append("  " + ", ".join(dict.fromkeys(row.key.rpartition(".")[2] for row in rows)))
            continue
        for row in rows:
            value = "" if row.value is None or row.value is True else f" {_short(row.value)}"
            arrow = f" -> {row.becomes}" if row.becomes else ""
            text.append(f"  {row.key}{value}{arrow}" + (f"  ({row.note})" if row.note else ""))
    return text


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
