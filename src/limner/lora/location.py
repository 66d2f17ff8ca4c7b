"""LoRAs and bases, wherever one is named: the one resolver of each. Loads no torch but to fetch."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from limner.errors import BadBase, BadRecipe
from limner.files import user_path
from limner.imports import imported, swiftly
from limner.models.registry import embedded_bases, lora_twin
from limner.models.source import Source, locate
from limner.run_folder import RUNS

SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
PART = r"[A-Za-z0-9][\w.\-]*"
HUB_NAME = re.compile(rf"{PART}/(?P<name>{PART})(?P<file>/[\w.\-/]+\.safetensors)?")
"""owner/name, or owner/name/file.safetensors."""


def on_hub(target: str | Path) -> bool:
    """Whether a name is of a LoRA on the hub: it is nothing here, and neither is its first folder.

    So a mistyped path is not looked for there, nor is ``runs/cat``, nor ``a/b.safetensors``.
    """
    path = user_path(target)
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


def locate_base(
    base: str, tell: Callable[[str], None] = lambda line: None, components_from: str = ""
) -> Source:
    """The base that a recipe names, with its weights.

    Args:
        base: A name, a hub id, a folder, or a file, which becomes a folder the first time.
        tell: Hears of a download before it starts.
        components_from: The base that lends a file what it lacks.

    Raises:
        BadBase: It cannot be opened.
        BadRecipe: ``components_from`` is given and the base is no file.
    """
    file = user_path(base)
    if file.is_file():
        with swiftly():
            opened = imported("limner.models.convert:opened")
        return opened(file, components_from, folders=embedded_bases(), tell=tell)
    if file.suffix in SINGLE_FILES:
        raise BadBase(f"There is no file {base}. Check the path, from the folder of the recipe or from here.")
    if components_from:
        raise BadRecipe(
            f"components_from is {components_from!r}, which is for a base in one file, and the base is "
            f"{base!r}. Remove it."
        )
    if twin := lora_twin(base):
        raw = locate_base(twin.train_on, tell)
        return imported("limner.lora.into_base:opened")(twin, raw, tell)
    return locate(base, folders=embedded_bases(), tell=tell)
