"""The table of all bases in words, for people."""

from collections.abc import Iterator
from pathlib import Path

from limner.files import human
from limner.models.source import hub_page
from limner.planning.describe import device_label, duration, hints
from limner.planning.survey import BaseEstimate, Survey, photograph_size, survey_for_photographs
from limner.recipe.fields import label
from limner.recipe.schema import Recipe

HEAD = ("base", "fits", "per step", "whole run", "VRAM", "RAM", "to fetch", "licence")


def survey_lines(result: Survey, target: Path | None) -> list[str]:
    """A row per base, what to begin with, and what the figures are worth.

    Args:
        result: The estimates.
        target: What the person named, for the command to go on with.
    """
    rows = [HEAD, *(_row(row) for row in result.estimates if not row.refusal)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    images = f"{result.images} images" + (" assumed" if result.images_unknown else "")
    return [
        f"Bases on {device_label(result.device)}, {images}:",
        "",
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ),
        "",
        *hints(result.device, assume=True),
        *_refusals(result),
        *_gates(result),
        *_suggestion(result, target),
        "Estimates for the preset's LoRA and square pictures, without tracing. For the whole plan name the "
        "base with --base: about ten seconds, the first time.",
    ]


def better_base(recipe: Recipe) -> str | None:
    """What to say of photographs that are about to be trained on the toy; None where it is no matter."""
    size = photograph_size(recipe)
    if size is None:
        return None
    start = f"{recipe.base} is a toy, and your images are photographs by their size ({size[0]} x {size[1]})."
    result = survey_for_photographs(recipe)
    base = result.suggestion if result else None
    for row in result.estimates if result else ():
        if result and row.base is base and row.total:
            fetch = f", {human(row.missing_bytes)} to fetch" if row.missing_bytes else ""
            return (
                f"{start} On {device_label(result.device)}: --base {row.base.name} "
                f"(about {duration(row.total.seconds)}{fetch})."
            )
    return f"{start} What other bases need: limner plan {recipe.data.images}"


def _row(row: BaseEstimate) -> tuple[str, ...]:
    fetch = human(row.missing_bytes) if row.missing_bytes else "here"
    licence = row.base.licence + (" (accept first)" if row.base.gate else "")
    licence += f"; {row.base.purpose}" if row.base.toy else ""
    if row.choice is None or row.total is None:
        fits = f"needs {row.card} GB" if row.card else "no"
        return (row.base.name, fits, "", "", "", "", fetch, licence)
    seconds = row.choice.step_time.seconds
    return (
        row.base.name,
        f"in {row.choice.plan.weights}",
        f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s",
        duration(row.total.seconds),
        label(row.choice.reserved),
        label(row.choice.host.total),
        fetch,
        licence,
    )


def _refusals(result: Survey) -> Iterator[str]:
    """What is not in the table, and why: bases of one reason in one line."""
    reasons: dict[str, list[str]] = {}
    for row in result.estimates:
        if row.refusal:
            reasons.setdefault(row.refusal, []).append(row.base.name)
    for reason, names in reasons.items():
        yield f"Not for this recipe: {', '.join(names)}. {reason}"


def _gates(result: Survey) -> Iterator[str]:
    gated = [row.base for row in result.estimates if row.base.gate and row.missing_bytes]
    if gated:
        yield "Licences to accept first, once:"
    yield from (f"  {base.name}: {hub_page(base.gate)}" for base in gated)


def _suggestion(result: Survey, target: Path | None) -> Iterator[str]:
    base = result.suggestion
    if base:
        command = f"limner train {target or 'FOLDER'} --base {base.name}"
        yield f"To begin with: {base.name} ({base.purpose}): {command}"
    elif result.device.kind == "cuda":
        yield "No open base trains here within three hours. Try a lower --resolution, or a rented --card."
    else:
        yield "Without a GPU only glyph trains in reasonable time; the others need a card of the size shown."
