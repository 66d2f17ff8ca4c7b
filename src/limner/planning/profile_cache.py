"""The profile of a recipe: read where it was traced before, else traced. Reading loads no torch."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from limner.assembly.base import Shape, family_at, shape_at
from limner.files import user_cache, write_json
from limner.imports import swiftly
from limner.models.bundled import described
from limner.models.facts import is_tokenizer
from limner.models.registry import distilled_note, embedded_bases
from limner.models.source import Source
from limner.planning.profile import Profile, from_json, to_json
from limner.planning.request import ProfileRequest
from limner.recipe.schema import Recipe

MADE_BY = ("planning", "nn", "models", "assembly")
"""What decides a profile: when a file of these rooms changes, profiles are traced anew."""
LIBRARIES = ("torch", "diffusers", "transformers")


def opened(recipe: Recipe, tell: Callable[[str], None]) -> Source:
    """The configs of a recipe's base; no weights are fetched. A distilled base is said to be one.

    Raises:
        BadBase: It cannot be found, reached, or opened.
    """
    source = described(recipe.base, folders=embedded_bases(), tell=tell)
    note = distilled_note(source.name, distilled=bool(source.index.get("is_distilled")))
    if note and not recipe.train.adapter:
        tell(note)
    return source


def shape_of(source: Source) -> Shape:
    """The sizes that a base is made for. Kept by family, as asking one loads torch."""
    pipeline = str(source.index.get("_class_name", ""))
    path = user_cache("profiles") / f"family-{_digest(pipeline, _made_by())}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        shape = Shape(int(record["multiple"]), int(record["resolution"]))
    except (OSError, ValueError, LookupError, TypeError):
        family = family_at(source)
        shape = Shape(family.multiple, family.resolution)
        _keep(path, {"multiple": shape.multiple, "resolution": shape.resolution})
    return shape_at(source, shape)


def profile_of(request: ProfileRequest, tell: Callable[[str], None] = lambda line: None) -> Profile:
    """The profile, kept from before or traced now.

    Args:
        request: Of what.
        tell: Is told before a step is traced, which takes some seconds.

    Raises:
        BadBase: The base's configs mean nothing.
        BadRecipe: A target or a text encoder is unknown.
    """
    path = (
        user_cache("profiles") / f"{_digest(request.facts, _configs(request.base.source), _made_by())}.json"
    )
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # never traced, or a torn file
        pass
    width, height = request.size
    tell(
        f"Tracing a step of {request.base.source.name} at {width} x {height}: about ten seconds, "
        "kept for next time."
    )
    profile = _traced(request)
    _keep(path, to_json(profile))
    return profile


def _keep(path: Path, value: Any) -> None:
    with suppress(OSError):  # where nothing can be kept, it is traced again next time
        write_json(path, value)


def _traced(request: ProfileRequest) -> Profile:
    with swiftly():
        from limner.planning.estimate import estimate

    return estimate(request)


def _configs(source: Source) -> dict[str, Any]:
    networks = [
        name
        for name in source.parts_listed
        if not is_tokenizer(name) and not name.startswith(("feature_extractor", "processor"))
    ]
    components = [name for name in networks if name != "safety_checker"]
    return {"name": source.name, "facts": dict(source.facts)} | {
        name: source.config(name) for name in components
    }


@cache
def _made_by() -> str:
    """The versions of all that makes a profile, and of our own files themselves."""
    home = Path(__file__).resolve().parents[1]
    files = [path for name in MADE_BY for path in _files(home / name)]
    contents = hashlib.sha256()
    for path in files:
        contents.update(path.read_bytes())
    return " ".join([*(f"{name} {version(name)}" for name in LIBRARIES), contents.hexdigest()])


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.is_file()


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]
