"""Bases as their configs describe them, for planning: no weights are opened here.

Configs of registered bases ship with Limner, in ``configs/`` of their family's folder: a file for each base,
part by part, as published but for what the libraries wrote of themselves. Of other bases on the hub they
alone are fetched.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limner.errors import BadBase, UnknownBase
from limner.files import user_cache, user_path
from limner.models.registry import (
    INDEX,
    MODULAR_INDEX,
    family_of_base,
    folder_of,
    hub_bases,
    hub_id_of,
    lora_twin,
)
from limner.models.single_file import look
from limner.models.source import Source, download_command, fetching, locate

SHARED = Path(__file__).parent / "configs"
"""Configs of parts that bases of several families share. A family's own lie in its ``configs/parts/``."""

CONFIG_PATTERNS = (INDEX, MODULAR_INDEX, "limner.json", "*/config.json", "*/scheduler_config.json")


@dataclass(frozen=True)
class Shipped(Source):
    """A base of which only the configs are here."""

    parts: Mapping[str, Any] = field(default_factory=dict)
    """Part, "scheduler" or "model_index" -> its config, or the name of a shared one."""

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, of the scheduler, or ``model_index``."""
        if part not in self.parts:
            raise BadBase(f"{self.name} has no {part}/; it has {', '.join(sorted(self.parts))}.")
        entry = self.parts[part]
        if not isinstance(entry, str):
            return dict(entry)
        own_file = self.root / "parts" / f"{entry}.json"
        return _read(own_file if own_file.is_file() else SHARED / f"{entry}.json")

    def weights(self, part: str) -> list[Path]:
        """None.

        Raises:
            BadBase: Always, with the command that fetches them.
        """
        raise BadBase(
            f"{self.name}: only its configs are here, which is enough to plan; the weights of {part}/ are "
            f"not. Fetch them: {download_command(hub_id_of(self.name))}"
        )


def known(name: str) -> Source:
    """The configs of a registered base, as they ship with Limner.

    Raises:
        BadBase: No registered base has that name.
    """
    family = family_of_base(name)
    if family is None or name not in hub_bases():
        names = ", ".join(hub_bases())
        raise UnknownBase(f"{name!r} is no base that Limner knows by name. Known: {names}.")
    root = folder_of(family.name) / "configs"
    return Shipped(root=root, name=name, parts=_read(root / f"{name}.json"))


def stored_precision(name: str, part: str) -> str | None:
    """Precision of a part's files: "bf16" or "fp32"; None for a base that is no registered one."""
    base = hub_bases().get(name)
    return base.precision(part) if base else None


def weight_bytes(name: str) -> int | None:
    """Bytes of a registered base's weights on the hub; None for a base that is no registered one."""
    base = hub_bases().get(name)
    return base.weight_bytes if base else None


def described(
    name: str, *, folders: Mapping[str, Path], tell: Callable[[str], None] = lambda line: None
) -> Source:
    """A base's configs, fetching nothing else: of a folder, of a registered name, or of a hub id.

    Args:
        name: As the recipe says it. A base in one file is planned as the one of its family.
        folders: Bases that come with the package, name -> folder.
        tell: Is told before configs are fetched from the hub.

    Raises:
        BadBase: It cannot be found, reached, or opened.
    """
    if user_path(name).is_file():
        return known(look(user_path(name)).donor)
    is_local = name in folders or user_path(name).is_dir()
    if (twin := lora_twin(name)) and not is_local:
        raw = described(twin.train_on, folders=folders, tell=tell)
        return replace(raw, name=name, facts={**raw.facts, **twin.changes.get("limner", {})})
    if name in hub_bases() and not is_local:
        return known(name)
    if is_local or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return locate(name, folders=folders, tell=tell)
    return replace(locate(str(_fetched(name, tell)), folders={}), name=name)


def _fetched(hub_id: str, tell: Callable[[str], None]) -> Path:
    """A folder with the configs of a base on the hub.

    They are kept apart from the hub's own cache, where a folder without weights would pass for the base.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(CONFIG_PATTERNS), local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError):
        pass  # the base is not on this disk
    home = user_cache("configs")
    options: dict[str, Any] = {"allow_patterns": list(CONFIG_PATTERNS), "cache_dir": home}
    try:
        return Path(snapshot_download(hub_id, **options, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError):
        tell(f"Fetching the configs of {hub_id}: some kilobytes, no weights.")
    gated = (
        f"{hub_id} is gated, its configs too: accept its licence on the hub's page of {hub_id}, then "
        "`hf auth login`; or plan with a folder that holds its configs."
    )
    offline_text = (
        f"The configs of {hub_id} are not on this disk and the hub cannot be reached. With network, run "
        f"this again; without, name a folder with its configs, or one of {', '.join(hub_bases())}."
    )
    with fetching(hub_id, gated=gated, offline_text=offline_text):
        return Path(snapshot_download(hub_id, **options))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
