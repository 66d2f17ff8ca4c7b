"""The command line: its verbs by name, and how each ends. Loads no torch until a verb needs it."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from limner.cli.group import VERBS, VerbGroup
from limner.errors import BadUsage, DoesNotFit, LimnerError
from limner.nn.memory import segments

app = typer.Typer(
    name="limner",
    cls=VerbGroup,
    help="From a handful of images to a LoRA for a text-to-image model.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def limner(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a handful of images to a LoRA for a text-to-image model."""
    if version:
        from importlib.metadata import version as installed

        sys.stdout.write(f"limner {installed('limner')}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process: status 0, 1 (the task failed) or 2 (wrong usage).

    Args:
        arguments: What follows ``limner`` on the command line; those of the process when left out.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    segments.configure()
    if arguments is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries warn of is for programmers: python -W default
    status = _status(line)
    if "RANK" in os.environ:
        from limner.cli.processes import leave_others

        leave_others(status)
    sys.exit(status)


def _verb(arguments: Sequence[str]) -> str:
    """``limner``, and the verb that a command line begins with, if it is one."""
    return " ".join(["limner", *(word for word in arguments[:1] if word in VERBS)])


def _status(arguments: list[str]) -> int:
    from limner.cli.show import failure

    as_json = "--json" in arguments or "--events" in arguments
    try:
        status = app(args=arguments, prog_name="limner", standalone_mode=False)
    except LimnerError as error:
        failure(type(error).__name__, str(error), as_json=as_json)
        return error.exit_code
    except TyperException as error:
        message = error.format_message().rstrip(".")
        end = "" if message.endswith("?") else "."
        failure(BadUsage.__name__, f"{message}{end} See `{_verb(arguments)} --help`.", as_json=as_json)
        return error.exit_code
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own, and torch may not be loaded
            raise
        failure(
            DoesNotFit.__name__,
            f"The GPU has no memory left: {str(error).partition(' GPU ')[0][:160].rstrip('. ')}. Close what "
            "else uses it, or state less with --vram, so that more is kept off it.",
            as_json=as_json,
        )
        return DoesNotFit.exit_code
    except OSError as error:
        path = error.filename2 or error.filename  # of two, the one that the person knows comes second
        prefix = f"{str(path)[:200]}: " if path else ""
        failure(
            type(error).__name__,
            f"{prefix}{error.strerror or error}. Check the path, its permissions and the disk.",
            as_json=as_json,
        )
        return 1
    return status if isinstance(status, int) else 0
