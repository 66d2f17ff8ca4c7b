"""The command line: a thin face over ``limner.run``. Loads no torch until a verb needs it."""

from limner.cli.app import main

__all__ = ["main"]
