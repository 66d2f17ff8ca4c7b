"""LoRAs by hub id, wherever one is named: the one resolver. Loads no torch but to fetch."""

import os
import re
from pathlib import Path

from limner.target import RUNS

PART = r"[A-Za-z0-9][\w.\-]*"
HUB_NAME = re.compile(rf"{PART}/(?P<name>{PART})(?P<file>/[\w.\-/]+\.safetensors)?")
"""owner/name, or owner/name/file.safetensors."""


def on_hub(target: str | Path) -> bool:
    """Whether a name is of a LoRA on the hub: it is nothing here, and neither is its first folder.

    So a mistyped path is not looked for there, nor is ``runs/cat``, nor ``a/b.safetensors``.
    """
    path = Path(target).expanduser()
    match = HUB_NAME.fullmatch(path.as_posix())
    if not match or (match["name"].endswith(".safetensors") and not match["file"]):
        return False
    return path.parts[0] != RUNS.name and not any(map(os.path.lexists, (path, path.parts[0])))


def local(target: str | Path) -> Path:
    """The path itself; or the file of a hub id, fetched.

    Raises:
        BadLora: The hub has no such file, or cannot be reached.
    """
    if not on_hub(target):
        return Path(target)
    from limner.lora.file import find, weights_file

    return weights_file(find(Path(target).as_posix()))


def output_path(target: str | Path, ending: str) -> Path:
    """Where what is made of a LoRA goes: beside it, or here where it is from the hub.

    ``output_path("a/cat.safetensors", "-8.safetensors") == Path("a/cat-8.safetensors")``, and of ``ada/cat``
    it is ``Path("cat-8.safetensors")``.
    """
    path = Path(target)
    if not on_hub(target):
        return path.with_name(f"{path.stem}{ending}")
    match = HUB_NAME.fullmatch(path.as_posix())
    assert match
    return Path(f"{path.stem if match['file'] else match['name']}{ending}")
