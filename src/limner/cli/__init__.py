"""The command line: a thin face over the verbs. Loads no torch until a verb needs it."""

from limner.cli import jobs, lora
from limner.cli.app import app, main

app.add_typer(lora.app)
app.add_typer(jobs.app)

__all__ = ["main"]
