"""What of a base is here, and its parts that lie elsewhere: in another repository, or where an index says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from limner.files import write_json
from limner.models.facts import is_tokenizer
from limner.models.registry import (
    MODULAR_INDEX,
    facts_of,
    family_of_base,
    folder_of,
    hub_bases,
    hub_id_of,
    index_path,
)
from limner.models.source import ALLOW_PATTERNS, Source, announce, fetching, hub_page

PATTERNS = ("*.json", "*.safetensors")
"""What is fetched of a repository whose top holds one model and its tokenizer."""
IGNORE_PATTERNS = ("original/*",)


def on_this_disk(name: str) -> bool:
    """Whether a base is here; of one that Limner does not know by name, what it is must be fetched anyway."""
    if name not in hub_bases() or Path(name).is_dir():
        return True
    from huggingface_hub import errors, snapshot_download

    family = family_of_base(name)
    try:
        for hub_id in {hub_id_of(name), *(family.borrowed.values() if family else ())}:
            snapshot_download(hub_id, allow_patterns=list(ALLOW_PATTERNS), local_files_only=True)
    except (errors.LocalEntryNotFoundError, FileNotFoundError):
        return False
    return True


def config_path(source: Source, part: str) -> Path:
    """A copy of the config of a part that no repository of the family holds."""
    facts = facts_of(str(source.config("model_index").get("_class_name")))
    assert facts
    return folder_of(facts.name) / "configs" / "parts" / f"{part}.json"


def donor_of(source: Source, part: str) -> str:
    """The hub id of a part that no repository of the family holds; "" of any other part."""
    facts = facts_of(str(source.config("model_index").get("_class_name")))
    return facts.borrowed.get(part, "") if facts else ""


def shared(source: Source) -> dict[str, Path]:
    """Of parts that are not here the folder of another part from the same donor: its files are in one."""
    folders = {
        donor_of(source, part): source.root / part for part in source.borrowed if part not in source.lacks
    }
    homes = {part: folders.get(donor_of(source, part)) for part in source.lacks}
    return {part: home for part, home in homes.items() if home}


def remedy(source: Source, part: str) -> str:
    """What to do about a part that is not there and lies in another place; "" where it lies in none."""
    if donor := donor_of(source, part):
        of_donor = [other for other in source.borrowed if donor_of(source, other) == donor]
        home = next(other for other in of_donor if not is_tokenizer(other))
        return (
            f"It is in no repository of this family. Accept the licence of {donor} on the hub, log in, "
            f"then `{download_command(donor)} --local-dir {source.root / home}`."
        )
    path = index_path(source.root)
    entry = json.loads(path.read_text(encoding="utf-8")).get(part) if path.is_file() else None
    spec: Any = entry[2] if isinstance(entry, list) and len(entry) == 3 else {}
    if not (home := isinstance(spec, dict) and spec.get("pretrained_model_name_or_path")):
        return ""
    folder = "/".join(filter(None, (str(home), str(spec.get("subfolder") or ""))))
    return f"{path.name} has it at {folder!r:.100}: copy it to {source.root / part}."


def download_command(hub_id: str) -> str:
    """What a person types to have such a model on this disk."""
    includes = " ".join(f"--include '{pattern}'" for pattern in PATTERNS)
    excludes = " ".join(f"--exclude '{pattern}'" for pattern in IGNORE_PATTERNS)
    return f"hf download {hub_id} {includes} {excludes}"


def completed(source: Source, tell: Callable[[str], None]) -> Source:
    """A base from the hub with the parts that its repository lacks.

    Raises:
        BadBase: They cannot be had.
        DiskFull: There is no room for them.
    """
    folders = {hub_id: _fetched(hub_id, tell) for hub_id in {donor_of(source, part) for part in source.lacks}}
    donor_folders = {part: folders[donor_of(source, part)] for part in source.lacks}
    return replace(source, donor_folders={**source.donor_folders, **donor_folders})


def _fetched(hub_id: str, tell: Callable[[str], None]) -> Path:
    from huggingface_hub import errors, snapshot_download

    patterns: dict[str, Any] = {"allow_patterns": list(PATTERNS), "ignore_patterns": list(IGNORE_PATTERNS)}
    try:
        return Path(snapshot_download(hub_id, **patterns, local_files_only=True))
    except (errors.LocalEntryNotFoundError, FileNotFoundError):
        pass  # not on this disk yet
    ask = f"accept its licence at {hub_page(hub_id)}, then `hf auth login`, then `{download_command(hub_id)}`"
    offline_text = (
        f"{hub_id}, which the base reads captions with, is not on this disk and the hub cannot be reached"
    )
    with fetching(
        hub_id,
        gated=f"{hub_id}, which the base reads captions with, is gated: {ask}.",
        offline_text=f"{offline_text}. With network: {ask}.",
    ):
        announce(hub_id, hub_id, tell, IGNORE_PATTERNS, None, PATTERNS)
        return Path(snapshot_download(hub_id, **patterns))


def write_modular_index(source: Source, folder: Path, index: Mapping[str, Any]) -> None:
    """Write the index of a copy of a modular base in another folder."""
    entries = {key: _placed(key, entry, source.name) for key, entry in index.items() if entry != [None, None]}
    write_json(folder / MODULAR_INDEX, entries)


def _placed(part: str, entry: Any, home: str) -> Any:
    """An entry of an index as a modular one has it. Beside its parts diffusers looks for them there first."""
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(name, str) for name in entry)):
        return entry
    spec = {"pretrained_model_name_or_path": home, "subfolder": part, "variant": None, "revision": None}
    return [*entry, {**spec, "type_hint": entry}]
