"""The families: found by listing the folders of ``limner.models``, each asked for what it says of itself.

A folder with a ``facts.py`` is a family. More folders are found where ``limner.models.__path__`` leads. A
family is imported when it is asked for, by its name, its pipeline or one of its bases: pipelines and bases
stand in ``facts.py`` as literals, so that its text tells whether it is the one.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

from limner import models
from limner.errors import BadBase
from limner.models.facts import FamilyFacts, RegisteredBase

if TYPE_CHECKING:
    from limner.models.family import Family
    from limner.models.key_map import FamilyKeys
from limner.errors import BadLora
from limner.models.key_map import FamilyKeys

INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
"""What names the parts of a base; the second of one that diffusers has as modular blocks alone."""
EMBEDDED = Path(__file__).resolve().parents[1] / "bases"
"""Where the weights are that come with the package."""


def index_path(folder: Path) -> Path:
    """The file in a base's folder that names its parts; the usual one where there is neither."""
    plain, modular = folder / INDEX, folder / MODULAR_INDEX
    return modular if modular.is_file() and not plain.is_file() else plain


class Families(Mapping[str, FamilyFacts]):
    """Name -> facts of every family, by name. To list the names imports none of them.

    Args:
        path: Where the folders of families lie.
    """

    def __init__(self, path: tuple[str, ...]) -> None:
        self._folders = {
            module.name.replace("_", "-"): Path(str(getattr(module.module_finder, "path", ""))) / module.name
            for module in sorted(iter_modules(path), key=lambda module: module.name)
            if module.ispkg
        }
        self._texts: dict[str, str] = {}

    def __getitem__(self, name: str) -> FamilyFacts:
        if name not in self._folders:
            raise KeyError(name)
        return _module(name, "facts").FACTS

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def naming(self, word: str) -> Iterator[FamilyFacts]:
        """Facts of the families whose ``facts.py`` has a word in quotation marks; imports no others."""
        for name, folder in self._folders.items():
            if name not in self._texts:
                self._texts[name] = (folder / "facts.py").read_text(encoding="utf-8")
            if f'"{word}"' in self._texts[name]:
                yield self[name]


class Bases(Mapping[str, RegisteredBase]):
    """Name -> base. One that is asked for by its name imports no family but its own."""

    def __getitem__(self, name: str) -> RegisteredBase:
        for facts in families().naming(name):
            for base in facts.bases:
                if base.name == name:
                    return base
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (base.name for facts in families().values() for base in facts.bases)

    def __len__(self) -> int:
        return sum(len(facts.bases) for facts in families().values())


class HubBases(Bases):
    """Those that are fetched from the hub, by name."""

    def __getitem__(self, name: str) -> RegisteredBase:
        base = super().__getitem__(name)
        if not base.hub_id:
            raise KeyError(name)
        return base

    def __iter__(self) -> Iterator[str]:
        bases = (base for facts in families().values() for base in facts.bases)
        return iter(sorted(base.name for base in bases if base.hub_id))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def families() -> Families:
    """Name -> facts of every family, by name. Loads no torch."""
    return _listed(tuple(models.__path__))


_listed = cache(Families)


def _module(family: str, part: str) -> ModuleType:
    return importlib.import_module(f"{models.__name__}.{family.replace('-', '_')}.{part}")


def facts_of(pipeline: str) -> FamilyFacts | None:
    """Facts of the family whose bases have ``pipeline`` in their ``model_index.json``; None of no family."""
    return next((facts for facts in families().naming(pipeline) if facts.pipeline == pipeline), None)


def family_of(pipeline: str) -> "Family":
    """The family whose bases name ``pipeline`` in their ``model_index.json``. Loads torch.

    Raises:
        BadBase: No family here has that pipeline.
    """
    facts = facts_of(pipeline)
    if facts is None:
        pipelines = sorted(facts.pipeline for facts in families().values())
        raise BadBase(f"The base is a {pipeline!r}; Limner trains {', '.join(pipelines)}.")
    return _module(facts.name, "family").FAMILY


def lora_keys() -> "dict[str, FamilyKeys]":
    """Name of a family -> what LoRA files may call its modules. Loads no torch.

    A family with the modules of another is not among them: its files are the other's (:func:`family_keys`).
    """
    return {name: _module(name, "lora").LORA for name, facts in families().items() if not facts.keys_of}


def registered_bases() -> Bases:
    """Name -> base, of every base that recipes call by a short name."""
    return Bases()


def hub_bases() -> HubBases:
    """The registered bases that are fetched from the hub, by name."""
    return HubBases()


def family_of_base(name: str) -> FamilyFacts | None:
    """Facts of the family of a registered base; None of any other name."""
    return next(
        (facts for facts in families().naming(name) if any(base.name == name for base in facts.bases)), None
    )


def hub_id_of(base: str) -> str:
    """Where a base is on the hub: of a registered one as its family says, of any other its own name."""
    return hub_bases()[base].hub_id if base in hub_bases() else base


def named_base(name: str) -> RegisteredBase | None:
    """The registered base of a name or a hub id; None where there is none."""
    bases = (base for facts in families().naming(name) for base in facts.bases)
    return next((base for base in bases if name in (base.name, base.hub_id)), None)


@dataclass(frozen=True)
class HubLicence:
    """A licence as the front matter of a model card names it."""

    id: str
    """One of the hub's own, or "other"."""
    name: str = ""
    """Of another licence."""
    link: str = ""
    """Of another licence: where it can be read."""


HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CreativeML Open RAIL-M": "creativeml-openrail-m",
    "CreativeML Open RAIL++-M": "openrail++",
}
"""Licence of a base -> what the hub calls it, where it has a name for it."""


def lora_twin(name: str) -> RegisteredBase | None:
    """The registered base of that name that is another one with a LoRA in it; None where there is none."""
    base = registered_bases().get(name)
    return base if base and base.lora else None


def hub_licence(base: RegisteredBase) -> HubLicence:
    """The licence of a base, as a model card on the hub names it."""
    if identifier := HUB_LICENCES.get(base.licence):
        return HubLicence(identifier)
    words = "-".join(re.findall(r"\w+", base.licence.lower()))
    return HubLicence("other", words, f"https://huggingface.co/{base.hub_id}" if base.hub_id else "")


def twin_of(name: str) -> RegisteredBase | None:
    """The distilled base of a base to train on, or the other way round; None where it has no such twin.

    Args:
        name: A registered name or a hub id.
    """
    base = named_base(name)
    if base is None:
        return None
    if base.train_on:
        return registered_bases()[base.train_on]
    bases = (twin for facts in families().naming(base.name) for twin in facts.bases)
    return next((twin for twin in bases if twin.train_on == base.name), None)


def distilled_note(name: str, *, distilled: bool = False) -> str:
    """What training on a distilled base does, and what to train on instead; "" of any other base.

    Args:
        name: A registered name, a hub id, or the name of a folder.
        distilled: Whether the base says of itself that it is.
    """
    twin, base = twin_of(name), named_base(name)
    if not (distilled or (base and base.train_on)):
        return ""
    instead = f"Train on {twin.name} and use the LoRA here" if twin else "Train on the base it was made from"
    return (
        f"{name} is distilled to few steps. Training wears that off: pictures need more steps and lose "
        f"sharpness. {instead}, or beside a training adapter (train.adapter)."
    )


def introduction(base: str, resolution: int | tuple[int, ...] | None = None) -> str:
    """A base in a line, before anything of it is read: what it is for, its pixels and its licence.

    Args:
        base: As the recipe names it.
        resolution: Side in pixels that the recipe asks for; None: the base's own.
    """
    record = registered_bases().get(base)
    if record and record.toy:
        return f"Base: {base}, {record.purpose}."
    pixels = resolution or (record.resolution if record else None)
    if isinstance(pixels, tuple):
        pixels = " and ".join(map(str, pixels))
    size = f", {pixels} pixels" if pixels else ""
    if record:
        return f"Base: {base}, {record.purpose}{size}. Licence: {record.licence}."
    match = recognised(base.rstrip("/").rpartition("/")[2])
    family = f", by its name of the family {match[0].name}" if match else ""
    return f"Base: {base}{family}{size}."


def folder_of(family: str) -> Path:
    """The folder of a family."""
    return Path(str(_module(family, "facts").__file__)).parent


def recognised(name: str) -> tuple[FamilyFacts, RegisteredBase | None] | None:
    """Family and registered base that a name of a base or of its pipeline tells, by its longest known word.

    None where it tells none. ``recognised("someone/my-sdxl")`` is the family SDXL and no base.
    """
    words: dict[str, tuple[FamilyFacts, RegisteredBase | None]] = {}
    for facts in families().values():
        words |= dict.fromkeys((facts.name, *facts.also_named), (facts, None))
        words |= {base.name: (facts, base) for base in facts.bases}
    matches = [word for word in words if word in name.lower()]
    return words[max(matches, key=len)] if matches else None


def family_keys(family: str) -> FamilyKeys:
    """The names of a family's modules, by its own name or that of a pipeline.

    Raises:
        BadLora: There is no such family.
    """
    if facts := families().get(family) or facts_of(family):
        return _module(facts.keys_of or facts.name, "lora").LORA
    keys_by_family = lora_keys()
    for names in keys_by_family.values():
        if family in names.pipelines:
            return names
    raise BadLora(f"No family is called {family!r}. Known: {', '.join(keys_by_family)}.")


def embedded_bases() -> dict[str, Path]:
    """Bases that come with the package: name -> folder in diffusers layout."""
    return {"glyph": EMBEDDED / "glyph"}


def embedded_predictors() -> dict[str, Path]:
    """Predictors that come with the package (``limner instant``): base -> folder."""
    paths = {base: folder.with_name(f"{base}-instant") for base, folder in embedded_bases().items()}
    return {base: path for base, path in paths.items() if path.is_dir()}
