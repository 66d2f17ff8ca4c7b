"""``limner init`` and ``limner schema``: a recipe to edit, and what an editor must know of recipes."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import Json, example, recipe_options, taking
from limner.errors import BadUsage
from limner.run_folder import RUNS
from limner.target import RunRequest, folder_name, home_of, outside, overrides_from, request_for, unplaced


def register(app: typer.Typer) -> None:
    """Add ``limner init`` to the command line."""
    app.command(epilog=example('limner init photos/ --base flux-dev --trigger "sks cat"'))(init)


def register_schema(app: typer.Typer) -> None:
    """Add ``limner schema`` to the command line."""
    app.command(epilog=example("limner schema > recipe.schema.json"))(schema)


@taking(recipe_options("init"))
def init(
    *,
    images: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A folder of images.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("recipe.toml"),
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Write a commented recipe to edit.

    Every key, what it means, and where its value is from.
    """
    from limner.cli.show import result
    from limner.files import write_text
    from limner.models.registry import distilled_note
    from limner.recipe.toml import commented

    if os.path.lexists(out):  # links to nothing and rings of links too
        raise BadUsage(f"{out} exists. Remove it, or write another file with --out.")
    overrides = overrides_from(options)
    request = _template(images, overrides)
    names = {"data.images": images, **overrides} if images else {}
    try:
        write_text(out, commented(unplaced(request.recipe, out, names), request.sources))
    except OSError as error:
        raise BadUsage(
            f"{out} cannot be written: {error.strerror}. Choose another file with --out."
        ) from error
    note = "" if request.recipe.train.adapter else distilled_note(request.recipe.base)
    lines = [f"{out}", *([note] if note else []), f"Next: limner train {out}"]
    result({"recipe": out}, lines, as_json=as_json)


def _template(images: Path | None, overrides: dict[str, Any]) -> RunRequest:
    from limner.models.presets import choices, concessions, preset, preset_name, ways
    from limner.recipe import Recipe
    from limner.recipe.toml import change

    if images is not None:
        home = home_of(images) or outside(RUNS / folder_name(images), [images])
        return request_for(images, overrides, home)
    base, concept = overrides.get("base", Recipe().base), overrides.get("concept_type", Recipe().concept_type)
    family, count = preset_name(base), 10
    start = (concept, family, count, *ways(overrides))
    sources = {path: choice.source for path, choice in choices(*start).items() if path not in overrides}
    values = {"base": base, **concessions(overrides), **overrides}
    return RunRequest(change(preset(*start), values), RUNS, sources)


def schema(*, as_json: Json = True) -> None:
    """Print the JSON schema of recipes, for editors."""
    del as_json  # there is no other form
    from limner.cli.show import result
    from limner.recipe.toml import json_schema

    result(json_schema(), [], as_json=True)
