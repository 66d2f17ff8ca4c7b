"""The command line: a thin face over the verbs. Loads no torch until a verb needs it."""

from limner.cli.app import main

__all__ = ["main"]
