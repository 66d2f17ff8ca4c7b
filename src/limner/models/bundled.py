"""Bases as their configs describe them, for planning: no weights are opened here.

Configs of registered bases ship with Limner; of other bases on the hub they alone are fetched.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from limner.errors import BadBase
from limner.files import user_cache
from limner.models.single_file import look
from limner.models.source import HUB, Source, download_command, fetching, locate

CONFIGS = Path(__file__).parent / "configs"
"""A file for each registered base, part by part; what several bases share lies in ``parts/``. Facts of the
published configs, without what the libraries wrote of themselves."""

DOWNLOAD = {
    "flux-dev": 33_741_198_278,
    "flux-schnell": 33_720_738_758,
    "flux2-klein-4b": 15_964_117_574,
    "flux2-klein-9b": 34_706_725_446,
    "qwen-image": 57_698_920_550,
    "sd15": 4_264_941_228,
    "sd35-large": 27_442_136_006,
    "sd35-medium": 15_815_224_006,
    "sdxl": 13_875_351_468,
    "z-image": 20_522_393_030,
    "z-image-turbo": 32_832_210_502,
}
"""Registered name -> bytes of its weights on the hub: every weight at the precision of :data:`STORED`.
Tokenizers and the headers of files add less than 0.2 %; those of SD 3.5 hold its grid of places besides, 0.2
and 0.5 GB."""

STORED = {"sd15": {"": "fp32"}, "sdxl": {"": "fp32"}, "z-image-turbo": {"transformer": "fp32"}}
"""Registered name -> part ("" for all) -> precision of its files, where it is not bf16."""


def stored(name: str, part: str) -> str | None:
    """Precision of a part's files: "bf16" or "fp32"; None for a base that is no registered one."""
    if name not in DOWNLOAD:
        return None
    parts = STORED.get(name, {})
    return parts.get(part, parts.get("", "bf16"))


FETCHED = ("model_index.json", "limner.json", "*/config.json", "*/scheduler_config.json")


@dataclass(frozen=True)
class Shipped(Source):
    """A base of which only the configs are here."""

    parts: Mapping[str, Any] = field(default_factory=dict)
    """Part, "scheduler" or "model_index" -> its config, or the name of a shared one."""

    @cached_property
    def index(self) -> dict[str, Any]:
        """``model_index.json``."""
        return self.config("model_index")

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, or of the scheduler."""
        if part not in self.parts:
            raise BadBase(f"{self.name} has no {part}/; it has {', '.join(sorted(self.parts))}.")
        found = self.parts[part]
        return _read(CONFIGS / "parts" / f"{found}.json") if isinstance(found, str) else dict(found)

    def weights(self, part: str) -> list[Path]:
        """None.

        Raises:
            BadBase: Always, with the command that fetches them.
        """
        raise BadBase(
            f"{self.name}: only its configs are here, which is enough to plan; the weights of {part}/ are "
            f"not. Fetch them: {download_command(HUB[self.name][0])}"
        )


def known(name: str) -> Source:
    """The configs of a registered base, as they ship with Limner.

    Raises:
        BadBase: No registered base has that name.
    """
    if name not in HUB:
        raise BadBase(f"{name!r} is no base that Limner knows by name. Known: {', '.join(sorted(HUB))}.")
    return Shipped(root=CONFIGS, name=name, parts=_read(CONFIGS / f"{name}.json"))


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
    if Path(name).expanduser().is_file():
        return known(look(Path(name).expanduser()).lender)
    here = name in folders or Path(name).expanduser().is_dir()
    if name in HUB and not here:
        return known(name)
    if here or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return locate(name, folders=folders, tell=tell)
    return replace(locate(str(_fetched(name, tell)), folders={}), name=name)


def bytes_stored(name: str, part: str) -> int:
    """Bytes that one number of a part takes in the files of a registered base; 2 for any other base."""
    stored = STORED.get(name, {})
    return 4 if stored.get(part, stored.get("")) == "fp32" else 2


def _fetched(hub_id: str, tell: Callable[[str], None]) -> Path:
    """A folder with the configs of a base on the hub.

    They are kept apart from the hub's own cache, where a folder without weights would pass for the base.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(FETCHED), local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError):
        pass  # the base is not on this disk
    home = user_cache("configs")
    chosen: dict[str, Any] = {"allow_patterns": list(FETCHED), "cache_dir": home}
    try:
        return Path(snapshot_download(hub_id, **chosen, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError):
        tell(f"Fetching the configs of {hub_id}: some kilobytes, no weights.")
    gated = (
        f"{hub_id} is gated, its configs too: accept its licence on the hub's page of {hub_id}, then "
        "`hf auth login`; or plan with a folder that holds its configs."
    )
    away = (
        f"The configs of {hub_id} are not on this disk and the hub cannot be reached. With network, run "
        f"this again; without, name a folder with its configs, or one of {', '.join(sorted(HUB))}."
    )
    with fetching(hub_id, gated=gated, away=away):
        return Path(snapshot_download(hub_id, **chosen))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
