"""The verb ``cache`` on the command line: fill it, list it, prune it."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli.options import Events, Json, Option, Out, example, recipe_options, taking
from limner.cli.session import session
from limner.errors import BadUsage
from limner.imports import swiftly
from limner.target import overrides_from, request_for

if TYPE_CHECKING:
    from limner.graph.contents import CacheContents, EntryGroup, PruneReport

CONTENTS = (
    Option("--list", "list", bool, "List what the cache holds, by run and by unit.", False),
    Option("--prune", "prune", bool, "Delete entries that were not used lately (30d).", False),
    Option("--older-than", "older_than", str, "With --prune: unused for so long: 12h, 30d, 8w.", None, "AGE"),
    Option("--max-size", "max_size", str, "With --prune: keep at most so much: 50GB.", None, "SIZE"),
    Option("--dry-run", "dry_run", bool, "With --prune: only say what would be deleted.", False),
)
"""What only this verb asks."""
SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
UNUSED_DAYS = 30
"""Days after which ``--prune`` deletes an unused entry where neither an age nor a size is named."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner cache photos/ --base flux-dev"))(cache)


@taking((*recipe_options("cache"), *CONTENTS))
def cache(
    *,
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="TARGET",
            help="A folder of images, a recipe.toml, or a run folder. Not needed for --list and --prune.",
            show_default=False,
        ),
    ] = None,
    out: Out = None,
    options: dict[str, Any],
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Precompute latents and text embeddings; or list the cache, or prune it.

    The cache is shared between runs. `limner train` fills it by itself.
    """
    request = {option.key: options.pop(option.key) for option in CONTENTS}
    _require_sense(request, target)
    if request["list"] or request["prune"]:
        folder = _folder(target, overrides_from(options))
        as_json = as_json or events
        _list(folder, as_json=as_json) if request["list"] else _prune(folder, request, as_json=as_json)
        return
    _fill(target or Path(), overrides_from(options), out, as_json=as_json, events=events)


def _require_sense(request: dict[str, Any], target: Path | None) -> None:
    if request["list"] and request["prune"]:
        raise BadUsage("--list and --prune are two commands. Name one of them.")
    for key in ("older_than", "max_size", "dry_run"):
        if request[key] and not request["prune"]:
            raise BadUsage(f"--{key.replace('_', '-')} belongs to --prune. Add --prune, or remove it.")
    if target is None and not request["list"] and not request["prune"]:
        raise BadUsage("Name a folder of images, a recipe.toml or a run folder; or --list, or --prune.")


def _fill(target: Path, overrides: dict[str, Any], out: Path | None, *, as_json: bool, events: bool) -> None:
    from limner import api
    from limner.cli.show import result
    from limner.files import human

    with session(as_json=as_json, events=events) as reporter:
        run = request_for(target, overrides, out)
        with swiftly():
            import limner.training.cache  # noqa: F401
        report = api.cache(run.recipe, out=run.out, on_event=reporter.on_event)
    computed_part = f"{report.computed} computed ({human(report.bytes)})"
    lines = [f"{report.entries} entries: {report.reused} reused, {computed_part}, in {report.seconds:.1f} s"]
    result(report, lines, as_json=as_json or events)


def _folder(target: Path | None, overrides: dict[str, Any]) -> Path:
    """The cache that a recipe names, or the one that the user's runs share."""
    from limner.files import shared_cache

    if target is not None:
        return request_for(target, overrides, None).recipe.data.cache or shared_cache()
    return Path(overrides["data.cache"]) if overrides.get("data.cache") else shared_cache()


def _list(folder: Path, *, as_json: bool) -> None:
    from limner.cli.show import result
    from limner.graph.contents import contents

    listing = contents(folder)
    result(listing, _contents_lines(listing), as_json=as_json)


def _prune(folder: Path, request: dict[str, Any], *, as_json: bool) -> None:
    from limner.cli.show import result
    from limner.graph.contents import prune
    from limner.recipe.fields import parse_size

    limit = None if request["max_size"] is None else parse_size(request["max_size"])
    age = None if request["older_than"] is None else parse_age(request["older_than"])
    if age is None and limit is None:
        age = UNUSED_DAYS * SECONDS["d"]
    report = prune(folder, older_than=age, max_size=limit, dry_run=request["dry_run"])
    result(report, _pruned_lines(report, limit), as_json=as_json)


def parse_age(text: str) -> float:
    """An age in seconds: ``parse_age("30d") == 2_592_000``.

    Units: m (minutes), h (hours), d (days), w (weeks).

    Raises:
        BadUsage: It is no number with one of these units.
    """
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d{1,6})?)\s*([mhdw])\s*", text)
    if not match:
        raise BadUsage(f'--older-than is {text!r:.40}. Write a number and a unit: "12h", "30d", "8w".')
    return float(match[1]) * SECONDS[match[2]]


def _contents_lines(listing: "CacheContents") -> list[str]:
    from limner.files import human

    lines = [
        f"{listing.folder}: {listing.entries} entries, {human(listing.bytes)}, {listing.in_use} in use now"
    ]
    if listing.runs:
        lines += ["", "By run (an entry that several runs read counts for each of them):"]
        lines += [_line(run, run.name or "no run on record") for run in listing.runs]
    if listing.units:
        lines += ["", "By unit:", *(_line(unit, unit.name) for unit in listing.units)]
    if listing.other:
        lines += ["", "Other folders of Limner, which --prune leaves alone:"]
        lines += [f"  {human(folder.bytes):>9}  {folder.path}: {folder.holds}" for folder in listing.other]
    return lines


def _line(group: "EntryGroup", name: str) -> str:
    from limner.files import human

    used = "" if group.used is None else f"used {_ago(group.used)}"
    busy = f", {group.in_use} in use now" if group.in_use else ""
    return f"  {human(group.bytes):>9}  {group.entries:>7} entries  {used}{busy}  {name}"


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    if seconds < SECONDS["h"]:
        return f"{seconds / SECONDS['m']:.0f} min ago"
    if seconds < 2 * SECONDS["d"]:
        return f"{seconds / SECONDS['h']:.0f} h ago"
    return f"{seconds / SECONDS['d']:.0f} days ago"


def _pruned_lines(report: "PruneReport", limit: int | None) -> list[str]:
    from limner.files import human

    verb = "would be deleted" if report.dry_run else "deleted"
    drafts = f", {report.drafts} half-written files among them" if report.drafts else ""
    lines = [
        f"{report.folder}: {report.deleted_entries} entries {verb} ({human(report.freed_bytes)}{drafts})"
    ]
    lines += [f"Kept: {report.remaining_entries} entries, {human(report.remaining_bytes)}"]
    lines[-1] += f", {report.in_use} of them in use now"
    if limit is not None and report.remaining_bytes > limit:
        lines += [f"More than --max-size {human(limit)} stays, as running processes hold it."]
    return lines
