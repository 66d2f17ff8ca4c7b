"""The verb ``caption`` on the command line."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.captions.catalog import PROVIDERS, choices
from limner.cli.options import BASE, CONCEPT_TYPES, Events, Json, Option, example, taking
from limner.cli.session import session
from limner.errors import BadUsage

CAPTIONS = (
    Option(
        "--with",
        "name",
        str,
        f"Captioner: {', '.join(PROVIDERS)}.",
        metavar="CAPTIONER",
        values=tuple(PROVIDERS),
    ),
    Option("--model", "model", str, "Its model; a folder or hub id for local ones. Left out: a usual one."),
    Option("--trigger", "trigger", str, 'Trigger word(s): the name of what is learned, e.g. "sks cat".'),
    Option(
        "--concept-type",
        "concept_type",
        str,
        "What the images share: subject, face, object, style, concept.",
        "subject",
        values=CONCEPT_TYPES,
    ),
    replace(BASE, help="Base model, whose caption style is used.", default="glyph"),
    Option(
        "--style",
        "style",
        str,
        "Caption style: sentences, phrases, brief or tags. Left out: that of --base.",
        values=("sentences", "phrases", "brief", "tags"),
    ),
    Option("--variants", "variants", int, "Captions per image.", 1),
    Option("--overwrite", "overwrite", bool, "Write generated captions again; never yours.", False),
    Option("--no-consistency", "alone", bool, "Skip the consistency pass over the whole set.", False),
    Option("--review", "review", bool, "Open the captions as a table in your editor.", False),
    Option("--apply", "apply", bool, "Apply the edited table, captions.tsv.", False),
    Option("--dry-run", "dry_run", bool, "Send nothing: say what would be sent where, and the price.", False),
    Option("--show-prompt", "show_prompt", bool, "Print the prompts and stop.", False),
    Option("--budget", "budget", float, "Spend at most so many US dollars."),
    Option("--url", "url", str, "Server that speaks OpenAI's or Anthropic's API."),
    Option("--key-env", "key_env", str, "Environment variable with the API key. Left out: the usual one."),
    Option("--timeout", "timeout", float, "Seconds to wait for an answer.", 120.0),
    Option("--concurrency", "concurrency", int, "Concurrent requests."),
    Option("--stream", "stream", bool, "Stream the answers.", False),
    Option("--max-image-size", "max_image_size", int, "Longer side in pixels of the copies sent.", 1024),
    Option(
        "--device",
        "device",
        str,
        "For local models: auto, cpu, cuda, mps.",
        "auto",
        values=("auto", "cpu", "cuda", "mps"),
    ),
)
"""The captioner, the captions, and how they are reviewed."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example('limner caption photos/ --with claude --trigger "sks cat"'))(caption)


@taking(CAPTIONS)
def caption(
    *,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A folder of images, or a recipe.toml: all of its folders."),
    ],
    options: dict[str, Any],
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Write captions for a folder of images.

    As .txt files beside the images; captions.jsonl says where each is from. Captions of yours stay.
    """
    from limner.cli.show import result

    _refuse_contradictions(options)
    as_json = as_json or events
    with session(as_json=as_json, events=events) as reporter:
        if options["show_prompt"]:
            value, lines = _prompts(options)
        elif folder.suffix == ".toml" and folder.is_file():
            value, lines = _of_sets(folder, options, reporter, open_editor=not as_json)
        else:
            value, lines = _of_folder(folder, options, reporter, open_editor=not as_json)
    result(value, lines, as_json=as_json)
    if value.get("failures"):
        raise typer.Exit(1)


def _of_folder(
    folder: Path, options: Mapping[str, Any], reporter: Any, *, open_editor: bool
) -> tuple[dict[str, Any], list[str]]:
    """What is asked for, of one folder: for programs, and for people."""
    if options["apply"]:
        return _apply(folder)
    value, lines = _write(folder, options, reporter) if options["name"] else ({}, [])
    if options["review"]:
        table, steps = _review(folder, open_editor=open_editor)
        value, lines = value | table, lines + steps
    return value, lines


def _of_sets(
    file: Path, options: Mapping[str, Any], reporter: Any, *, open_editor: bool
) -> tuple[dict[str, Any], list[str]]:
    """The same of each folder of a recipe, each with its own trigger, all within one budget.

    Raises:
        BadRecipe: The file is no recipe.
    """
    from limner.recipe.toml import load

    recipe, budget = load(file), options["budget"]
    values: list[dict[str, Any]] = []
    lines: list[str] = []
    for entry in recipe.data.folders:
        texts = {"trigger": options["trigger"] or entry.trigger, "base": options["base"] or recipe.base}
        cost = sum(value.get("cost") or 0.0 for value in values)
        rest = None if budget is None else max(0.0, budget - cost)
        folder = entry.images or Path()
        value, words = _of_folder(
            folder, {**options, **texts, "budget": rest}, reporter, open_editor=open_editor
        )
        values.append(value)
        lines += [f"{folder}", *words]
    return {
        "sets": values,
        "failures": [entry for value in values for entry in value.get("failures", [])],
    }, lines


def _refuse_contradictions(options: Mapping[str, Any]) -> None:
    if not any(options[key] for key in ("name", "review", "apply", "show_prompt")):
        raise BadUsage(f"There is no captioner. Name one with --with: {choices()}.")
    for key, other in (("apply", "name"), ("apply", "review"), ("dry_run", "review")):
        if options[key] and options[other]:
            flags = {option.key: option.flag for option in CAPTIONS}
            raise BadUsage(f"{flags[key]} and {flags[other]} do not go together. Leave one of them out.")
    if not 0 < options["timeout"] <= 3600:
        raise BadUsage(
            f"--timeout is {options['timeout']:g}; it must be more than 0 and at most 3600 seconds."
        )


def _spec(options: Mapping[str, Any]) -> Any:
    from limner.captions.spec import spec_of

    return spec_of(
        **{name: options[name] for name in ("concept_type", "base", "style", "trigger", "variants")}
    )


def _prompts(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    from limner.captions import prompts

    spec = _spec(options)
    value, lines = {}, []
    for name, prompt in (("image", prompts.for_image(spec)), ("set", prompts.for_set(spec))):
        value[name] = {"text": prompt.text, **prompt.record}
        lines += [f"# for each {name}: {prompt.version} ({prompt.sha256})", "", *prompt.text.splitlines(), ""]
    return value, lines


def _write(folder: Path, options: Mapping[str, Any], reporter: Any) -> tuple[dict[str, Any], list[str]]:
    from dataclasses import asdict

    from limner.captions.caption import caption as run
    from limner.captions.providers import Options
    from limner.captions.summary import CaptionSettings

    keys = ("name", "model", "url", "key_env", "timeout", "stream", "device")
    settings = CaptionSettings(
        concurrency=options["concurrency"],
        max_image_size=options["max_image_size"],
        overwrite=options["overwrite"],
        consistency=not options["alone"],
        budget=options["budget"],
        dry_run=options["dry_run"],
    )
    summary = run(folder, _spec(options), Options(**{key: options[key] for key in keys}), settings, reporter)
    return asdict(summary), _lines(summary)


def _lines(summary: Any) -> list[str]:
    from limner.captions.price import dollars
    from limner.reporter import duration

    counts = {
        "written": summary.new_captions,
        "put in place that were answered before": summary.recovered_captions,
        "kept": summary.existing_captions,
        "yours": summary.by_hand,
        "left": summary.remaining,
        "without": len(summary.failures),
    }
    text = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    lines = [f"Captions: {text or 'none'}, of {summary.images} images, in {duration(summary.seconds)}"]
    if summary.tokens_in or summary.tokens_out:
        price = "unknown" if summary.cost is None else dollars(summary.cost)
        lines.append(f"Price:    {price} ({summary.tokens_in} tokens read, {summary.tokens_out} written)")
    if summary.revisions:
        words = "; ".join(f"{use} for {', '.join(rest)}" for use, rest in summary.words.items() if rest)
        lines.append(f"Set:      {summary.revisions} looked over together{f'; {words}' if words else ''}")
    lines += [f"Notice:   {finding}" for finding in summary.findings]
    lines += [f"Without:  {image['file']}: {image['reason']}" for image in summary.failures[:20]]
    return [*lines, f"Next:     limner caption {summary.folder} --review"]


def _apply(folder: Path) -> tuple[dict[str, Any], list[str]]:
    from limner.captions.review import apply

    files = apply(folder)
    names = f" ({', '.join(files[:10])}{', ..' if len(files) > 10 else ''})" if files else ""
    return {"changed": files}, [f"Changed captions: {len(files)}{names}"]


def _review(folder: Path, *, open_editor: bool) -> tuple[dict[str, Any], list[str]]:
    from limner.captions.review import edit, lay_out

    table = lay_out(folder)
    if open_editor and sys.stdin.isatty() and sys.stderr.isatty() and edit(table):
        value, lines = _apply(folder)
        return {"table": table, **value}, lines
    return {"table": table}, [f"Edit {table}, then: limner caption {folder} --apply"]
