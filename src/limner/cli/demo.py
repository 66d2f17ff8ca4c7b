"""``limner demo`` and ``limner doctor``: what Limner does, and whether this machine can."""

from pathlib import Path
from typing import Annotated

import typer

from limner.cli.options import Json, example
from limner.cli.session import session
from limner.imports import swiftly


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog=example("limner demo --out demo"))(demo)
    app.command(epilog=example("limner doctor"))(doctor)


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that the demo makes.")] = Path(
        "demo"
    ),
    as_json: Json = False,
) -> None:
    """Train LoRAs on the embedded base, and compare images before and after.

    Needs no GPU and no download.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.demo import demo as run

        summary = run(out, reporter)
    lines = [
        f"{lora['path']}: {lora['seconds']:.0f} s, "
        f"score {lora['before']:.0%} before, {lora['after']:.0%} after"
        for lora in summary["loras"]
    ]
    result(summary, [*lines, f"Sheet:  {summary['sheet']}", f"Report: {summary['report']}"], as_json=as_json)


def doctor(*, as_json: Json = False) -> None:
    """Say what this machine can train, what is missing, and what to do.

    Exits 1 when something that is needed is missing.
    """
    from limner.cli.show import result

    with session(as_json=as_json):
        from limner.doctor import doctor as run
        from limner.doctor import lines, summary

        findings = run()
        first = summary(findings)
    healthy = all(finding.ok for finding in findings)
    text = [first, "", *lines(findings)]
    result({"ok": healthy, "summary": first, "findings": findings}, text, as_json=as_json)
    if not healthy:
        raise typer.Exit(1)
