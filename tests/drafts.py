"""Drafts as a process leaves them that is killed while it writes a file."""

from pathlib import Path

from limner import files

DEAD = 2**22 + 1
"""A number that Linux gives to no process: the largest is 2^22."""


def draft_of(path: Path, *, pid: int = DEAD, host: str = "") -> Path:
    """Where process ``pid`` would draft a file; not made."""
    return path.with_name(f".limner-{host or files._host()}-{pid}-abcd_123.part") / path.name
