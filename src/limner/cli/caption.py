"""The verb ``caption`` on the command line."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import EVENTS, Option, taking
from limner.errors import BadUsage

WHO = "claude, openai, ollama, lmstudio, vllm, llamacpp, local, tagger"

CAPTIONS = (
    Option("--with", "name", str, f"Who writes: {WHO}."),
    Option("--model", "model", str, "Its model; a folder or hub id for local ones. Left out: a usual one."),
    Option("--trigger", "trigger", str, 'Name of what is learned, e.g. "sks cat".'),
    Option(
        "--concept-type",
        "concept_type",
        str,
        "What the images share: subject, face, object, style, concept.",
        "subject",
    ),
    Option("--base", "base", str, "Write as this base has learned to read.", "glyph"),
    Option("--style", "manner", str, "sentences, phrases, brief or tags, instead of what --base says."),
    Option("--variants", "variants", int, "Captions per image.", 1),
    Option("--overwrite", "overwrite", bool, "Write anew what was written here before; never yours.", False),
    Option("--no-consistency", "alone", bool, "Do not make the captions of the set agree afterwards.", False),
    Option("--review", "review", bool, "Open the captions as a table in your editor.", False),
    Option("--apply", "apply", bool, "Take over the edited table, captions.tsv.", False),
    Option("--dry-run", "dry_run", bool, "Only say what would go where, and the price.", False),
    Option("--show-prompt", "show_prompt", bool, "Print the prompts and stop.", False),
    Option("--budget", "budget", float, "US dollars that it may cost at most."),
    Option("--url", "url", str, "Address of a server that speaks OpenAI's or Anthropic's protocol."),
    Option("--key-env", "key_env", str, "Environment variable with the key, where it is not the usual one."),
    Option("--timeout", "timeout", float, "Seconds to wait for an answer.", 120.0),
    Option("--concurrency", "concurrency", int, "Questions at once."),
    Option("--stream", "stream", bool, "Read answers while they are written.", False),
    Option(
        "--max-image-size",
        "max_image_size",
        int,
        "Longer side in pixels of the copies that are looked at.",
        1024,
    ),
    Option("--device", "device", str, "For local models: auto, cpu, cuda, mps.", "auto"),
)
"""Who writes, what, and how it is looked through."""


@taking(CAPTIONS)
def caption(
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images.")],
    given: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    events: Annotated[bool, EVENTS] = False,
) -> None:
    """Write captions for a folder of images.

    Into text files beside the images; captions.jsonl says where each is from. Captions of your own stay.
    """
    from limner.cli.app import speaking
    from limner.cli.show import result

    _refuse_contradictions(given)
    as_json = as_json or events
    with speaking(as_json=as_json, events=events) as reporter:
        if given["show_prompt"]:
            value, lines = _prompts(given)
        elif given["apply"]:
            value, lines = _apply(folder)
        else:
            value, lines = _write(folder, given, reporter) if given["name"] else ({}, [])
            if given["review"]:
                more, told = _review(folder, open_editor=not as_json)
                value, lines = value | more, lines + told
    result(value, lines, as_json=as_json)
    if value.get("flagged"):
        raise typer.Exit(1)


def _refuse_contradictions(given: Mapping[str, Any]) -> None:
    if not any(given[key] for key in ("name", "review", "apply", "show_prompt")):
        raise BadUsage(f"Who shall write the captions? Say --with and one of {WHO}.")
    for one, other in (("apply", "name"), ("apply", "review"), ("dry_run", "review")):
        if given[one] and given[other]:
            flags = {option.key: option.flag for option in CAPTIONS}
            raise BadUsage(f"{flags[one]} and {flags[other]} do not go together. Leave one of them out.")
    if not 0 < given["timeout"] <= 3600:
        raise BadUsage(f"--timeout is {given['timeout']:g}; it must be more than 0 and at most 3600 seconds.")


def _wish(given: Mapping[str, Any]) -> Any:
    from limner.captions.spec import spec_of

    return spec_of(
        **{name: given[name] for name in ("concept_type", "base", "manner", "trigger", "variants")}
    )


def _prompts(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    from limner.captions import prompts

    wish = _wish(given)
    value, lines = {}, []
    for name, prompt in (("image", prompts.for_image(wish)), ("set", prompts.for_set(wish))):
        value[name] = {"text": prompt.text, **prompt.record}
        lines += [f"# for each {name}: {prompt.version} ({prompt.sha256})", "", *prompt.text.splitlines(), ""]
    return value, lines


def _write(folder: Path, given: Mapping[str, Any], reporter: Any) -> tuple[dict[str, Any], list[str]]:
    from dataclasses import asdict

    from limner.captions.caption import Settings
    from limner.captions.caption import caption as run
    from limner.captions.providers import Options

    own = ("name", "model", "url", "key_env", "timeout", "stream", "device")
    settings = Settings(
        concurrency=given["concurrency"],
        max_image_size=given["max_image_size"],
        overwrite=given["overwrite"],
        together=not given["alone"],
        budget=given["budget"],
        dry_run=given["dry_run"],
    )
    done = run(folder, _wish(given), Options(**{key: given[key] for key in own}), settings, reporter)
    return asdict(done), _told(done)


def _told(done: Any) -> list[str]:
    from limner.captions.price import dollars
    from limner.reporter import duration

    counts = {
        "written": done.written,
        "put in place that were answered before": done.restored,
        "kept": done.kept,
        "yours": done.by_hand,
        "left": done.left,
        "without": len(done.flagged),
    }
    told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    lines = [f"Captions: {told or 'none'}, of {done.images} images, in {duration(done.seconds)}"]
    if done.tokens_in or done.tokens_out:
        price = "unknown" if done.cost is None else dollars(done.cost)
        lines.append(f"Price:    {price} ({done.tokens_in} tokens read, {done.tokens_out} written)")
    if done.agreed:
        chosen = "; ".join(f"{use} for {', '.join(others)}" for use, others in done.words.items() if others)
        lines.append(f"Set:      {done.agreed} looked over together{f'; {chosen}' if chosen else ''}")
    lines += [f"Notice:   {one}" for one in done.findings]
    lines += [f"Without:  {one['file']}: {one['reason']}" for one in done.flagged[:20]]
    return [*lines, f"Next:     limner caption {done.folder} --review"]


def _apply(folder: Path) -> tuple[dict[str, Any], list[str]]:
    from limner.captions.review import apply

    changed = apply(folder)
    names = f" ({', '.join(changed[:10])}{', ..' if len(changed) > 10 else ''})" if changed else ""
    return {"changed": changed}, [f"Changed captions: {len(changed)}{names}"]


def _review(folder: Path, *, open_editor: bool) -> tuple[dict[str, Any], list[str]]:
    from limner.captions.review import edit, lay_out

    table = lay_out(folder)
    if open_editor and sys.stdin.isatty() and sys.stderr.isatty() and edit(table):
        value, lines = _apply(folder)
        return {"table": table, **value}, lines
    return {"table": table}, [f"Edit {table}, then: limner caption {folder} --apply"]
