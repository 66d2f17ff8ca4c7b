"""The verb ``judge`` on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli.options import Events, Json, Option, example, numbers, steps_from, taking
from limner.cli.session import session
from limner.errors import BadUsage
from limner.imports import swiftly

if TYPE_CHECKING:
    from limner.judging.judge import JudgeReport

JUDGING = (
    Option(
        "--steps",
        "steps",
        str,
        "Training steps whose LoRAs are judged: 100,200,best. Left out: all that kept one.",
        metavar="STEPS",
    ),
    Option(
        "--strengths",
        "strengths",
        str,
        "LoRA scales (strengths) that each is judged at.",
        "0.4,0.6,0.8,1,1.2",
        metavar="NUMBERS",
    ),
    Option("--prompt", "prompts", list[str], "Prompt with [trigger]; may be repeated.", metavar="TEXT"),
    Option("--prompt-file", "prompt_file", Path, "Text file, a prompt per line, as generate takes it."),
    Option(
        "--leak-prompt",
        "leak_prompts",
        list[str],
        "Prompt without the trigger; may be repeated. Left out: the others with the trigger taken out.",
        metavar="TEXT",
    ),
    Option("--seeds", "seeds", str, "How many seeds, or which: 4, or 7,8,9.", "4", metavar="NUMBERS"),
    Option("--size", "size", str, "Pixels: 512, or 768x512. Left out: as trained.", metavar="SIZE"),
    Option(
        "--encoder",
        "encoders",
        list[str],
        "A vision encoder (SigLIP, CLIP, DINO ..; folder or hub id); may be repeated: the first looks, the "
        "first with a text tower reads prompts. Left out: SigLIP 2; on glyph its own judge.",
        metavar="NAME",
    ),
)
"""What is judged."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner judge runs/cat --seeds 8"))(judge)


@taking(JUDGING)
def judge(
    *,
    target: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or what it was made from.")],
    options: dict[str, Any],
    step: Annotated[
        str | None,
        typer.Option(
            "--choose",
            metavar="STEP",
            help="Judge nothing: make the LoRA of this step the run's: a number, best, last or recommended.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength", help="With --choose: multiplied into it. Left out: as recommended, else 1."
        ),
    ] = None,
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Find which step and strength of a run's LoRA to use.

    Generates images of each kept step at several strengths, measures likeness, prompt-following, leak and
    variety with their intervals, and recommends one, or says that it cannot tell. Images that are there
    already are not generated again.
    """
    from limner.cli.show import result

    with session(as_json=as_json, events=events) as reporter:
        if strength is not None and step is None:
            raise BadUsage(
                f"--strength is {strength:g}, which is for --choose STEP. For a grid: --strengths."
            )
        values = {key: value for key, value in options.items() if value not in (None, [])}
        with swiftly():
            from limner.judging.choose import BY_JUDGE, choose
            from limner.judging.judge import judge as run
            from limner.judging.request import JudgeOptions
        if step is not None:
            number = BY_JUDGE if step == BY_JUDGE else steps_from(step)[0]
            paths = choose(target, number, strength, reporter)
            value, text = {"loras": paths}, [str(path) for path in paths]
        else:
            report = run(target, JudgeOptions(**_values(values)), reporter)
            value, text = report, lines(report)
    result(value, text, as_json=as_json or events)  # out here: within the session stdout is not the result's


def _values(values: dict[str, Any]) -> dict[str, Any]:
    """Options as ``JudgeOptions`` has them."""
    strengths = numbers("--strengths", values.pop("strengths"), float)
    seeds = numbers("--seeds", values.pop("seeds"), int)
    result: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    result["strengths"] = tuple(strengths) if isinstance(strengths, list) else (strengths,)
    result["seeds"] = tuple(seeds) if isinstance(seeds, list) else tuple(range(seeds))
    if "steps" in result:
        result["steps"] = tuple(steps_from(result["steps"]))
    if "size" in result:
        result["size"] = size_of(result["size"])
    return result


def size_of(text: str) -> tuple[int, int]:
    """Width and height: ``size_of("512") == (512, 512)``, ``size_of("768x512") == (768, 512)``.

    Raises:
        BadUsage: It is none.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise BadUsage(f"--size is {text!r}; write pixels, 512, or width x height, 768x512.")
    return int(sides[0]), int(sides[-1])


def lines(report: "JudgeReport") -> list[str]:
    """A table of the cells, and what to take."""
    names = [name for name in report.cells[0] if name not in ("step", "strength")]
    head = f"{'step':>6} {'strength':>8}" + "".join(f"  {name:<20}" for name in names)
    rows = [
        f"{cell['step'] or 'base':>6} {cell['strength']:>8g}"
        + "".join(f"  {cell[name]!s:<20}" for name in names)
        for cell in report.cells
    ]
    advice = report.recommendation
    remedy = []
    if advice.step is not None:
        remedy = [f"Make it the run's LoRA: limner judge {report.run} --choose recommended"]
    own = f"Likeness of the training images among themselves: {report.ceiling:.2f}"
    ends = [own, f"Sheet: {report.sheet}", advice.reason, *remedy]
    return [head.rstrip(), *(row.rstrip() for row in rows), "", *ends]
