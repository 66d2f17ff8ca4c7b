"""Where a base's files are: a folder in diffusers layout, found locally or on the hub."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from limner.errors import BadBase, UnknownBase
from limner.files import (
    human,
    real_path,
    require_space,
    sha256_file,
    user_cache,
    user_path,
    write_json,
    write_text,
)
from limner.imports import imported
from limner.models.config_rules import require_plain
from limner.models.facts import is_tokenizer
from limner.models.registry import (
    INDEX,
    facts_of,
    hub_bases,
    hub_id_of,
    index_path,
    registered_bases,
)
from limner.models.single_file import single_file_titles

ALLOW_PATTERNS = ("*.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model", "*/*.jinja")
IGNORE_PATTERNS = (
    "*.fp16.*",
    "*.non_ema.*",
    "*.ema.*",
    "*/openvino*",
    "safety_checker/*",
    "vae_1_0/*",
    "vae_*coder/*",
)
"""What of a base's files is never fetched: second copies in other precisions, and parts that are not used."""
WEIGHTS = (
    (
        "diffusion_pytorch_model",
        ("transformer", "unconditional_transformer", "vae", "unet", "text_conditioner"),
    ),
    ("model", ("text_encoder", "text_encoder_2", "text_encoder_3")),
)

FACTS = {"resolution": 8192, "text_length": 8192, "guidance": 100}
"""What ``limner.json`` may say, and the largest value."""

TOKENIZER = (".json", ".txt", ".model")


NO_PART = [None, None]
"""What an index has in the place of a part that is left out."""
NON_MODELS = ("scheduler", "feature_extractor", "safety_checker")
"""Parts of a pipeline that are no models, or that Limner does without."""


@dataclass(frozen=True)
class Source:
    """A base on this disk: a folder in diffusers layout."""

    root: Path
    name: str
    """As the recipe names it; goes into metadata, so it is never a path of this machine."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Optional ``limner.json`` of the folder: defaults that the base was made for."""
    donor_folders: Mapping[str, Path] = field(default_factory=dict)
    """Part -> the folder of its files, of what the base's repository lacks (``FamilyFacts.borrowed``)."""

    @cached_property
    def index(self) -> dict[str, Any]:
        """``model_index.json``; of a modular base what that would say; with what the family borrows."""
        index = self.config("model_index")
        additions = {
            part: kind for part, kind in self.borrowed.items() if index.get(part, NO_PART) == NO_PART
        }
        return {**index, **additions}

    @cached_property
    def borrowed(self) -> dict[str, list[str]]:
        """Parts that no repository of the family holds, each with library and class."""
        facts = facts_of(str(self.config("model_index").get("_class_name")))
        return {part: facts.parts[part].split(":") for part in facts.borrowed} if facts else {}

    @property
    def lacks(self) -> list[str]:
        """Parts that no repository of the family holds and that are not here either."""
        return [part for part in self.borrowed if not self.folder(part).is_dir()]

    def folder(self, part: str) -> Path:
        """Where the files of a part are."""
        return self.donor_folders.get(part, self.root / part)

    @property
    def parts_listed(self) -> list[str]:
        """Parts that ``model_index.json`` names with a class, the scheduler among them."""
        return [
            part
            for part, kind in self.index.items()
            if isinstance(kind, list) and len(kind) == 2 and all(isinstance(name, str) for name in kind)
        ]

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, of the scheduler, or ``model_index``."""
        if part == "model_index":
            return {key: _pair(entry) for key, entry in _json(index_path(self.root)).items()}
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = self.folder(part) / name
        if not path.is_file() and part in self.borrowed:
            path = imported("limner.models.hub:config_path")(self, part)
        return _json(path)

    def weights(self, part: str) -> list[Path]:
        """The files that decide what a part computes: weight shards, or a tokenizer's files.

        Raises:
            BadBase: Files are missing, or only pickled weights are there.
        """
        folder = self.folder(part)
        if not folder.is_dir():
            raise BadBase(f"{self.name}: the folder {part}/ is missing in {self.root}. {self._remedy(part)}")
        if is_tokenizer(part):
            files = sorted(p for p in folder.iterdir() if p.suffix in TOKENIZER)
            if not files:
                raise BadBase(f"{self.name}: {part}/ is empty. {self._remedy(part)}")
            if invalid_files := [path.name for path in files if not path.is_file()]:
                raise BadBase(f"{self.name}: {part}/{invalid_files[0]} is no file. {self.again}")
            return files
        stem = next((stem for stem, parts in WEIGHTS if part in parts), "model")
        index = folder / f"{stem}.safetensors.index.json"
        whole = folder / f"{stem}.safetensors"
        files = [whole]
        if not whole.exists() and index.exists():
            files = sorted({folder / name for name in _json(index).get("weight_map", {}).values()})
        missing = [path.name for path in (folder / "config.json", *files) if not path.is_file()]
        if missing or not files:
            if any(folder.glob("*.bin")):
                raise BadBase(
                    f"{self.name}: {part}/ holds pickled weights only. Convert them to safetensors; "
                    "Limner never unpickles."
                )
            names = ", ".join(missing) or index.name
            raise BadBase(f"{self.name}: {part}/ lacks {names}. {self._remedy(part)}")
        return files

    def _remedy(self, part: str) -> str:
        """What to do about a part that is not there."""
        return imported("limner.models.hub:remedy")(self, part) or self.again

    def write_index(self, folder: Path, index: Mapping[str, Any]) -> None:
        """Write an index for a copy of this base in another folder, in the form that this one's has.

        Args:
            folder: Where the parts of the copy lie, or will lie.
            index: As :attr:`index`.
        """
        if index_path(self.root).name == INDEX:
            write_json(folder / INDEX, index)
            return
        imported("limner.models.hub:write_modular_index")(self, folder, index)

    def fingerprint(self, part: str, precision: str) -> str:
        """Identity of a part's weights at a precision. Reads each file's bytes once per machine."""
        files = self.weights(part)
        if not is_tokenizer(part):
            files = [self.folder(part) / "config.json", *files]
        return " ".join([*(f"{path.name}={content(path)}" for path in files), precision])

    @property
    def models(self) -> list[str]:
        """Parts of the pipeline that are models, or are needed to use one."""
        return [part for part in self.parts_listed if part not in NON_MODELS]

    @property
    def bytes_on_disk(self) -> int | None:
        """Bytes of the files of :attr:`models`; None where some are not on this disk."""
        try:
            return sum(path.stat().st_size for part in self.models for path in self.weights(part))
        except BadBase:
            return None

    @property
    def again(self) -> str:
        """What to do when a part of the base is missing or broken."""
        hub_id = hub_id_of(self.name)
        if "/" in hub_id:
            return f"Download it again: {download_command(hub_id)}"
        return "Copy the whole base again, or name another one."


def locate(
    name: str,
    *,
    folders: Mapping[str, Path],
    tell: Callable[[str], None] = lambda line: None,
    skip_weights: Sequence[str] = (),
) -> Source:
    """Find a base: a registered name, a folder in diffusers layout, or a hub id.

    Args:
        name: As the recipe says it.
        folders: Bases that come with the package, name -> folder.
        tell: Is told licence, size and gate of a base before it is fetched from the hub.
        skip_weights: Parts whose weights are not needed, and not fetched.

    Raises:
        BadBase: It cannot be found, reached, or opened.
    """
    if name in folders:
        return _open(folders[name], name)
    folder = user_path(name)
    if folder.is_dir():
        return _open(folder, real_path(folder).name)
    if name not in hub_bases() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        names = ", ".join(sorted({*folders, *registered_bases()}))
        titles = single_file_titles()
        raise UnknownBase(
            f"Base {name!r} is no folder here and no known name. Known: {names}. "
            "A folder in diffusers layout, a hub id (owner/name), or a .safetensors file of "
            f"{', '.join(titles[:-1])} or {titles[-1]} works too."
        )
    source = _open(_from_hub(name, tell, skip_weights), name)
    return imported("limner.models.hub:completed")(source, tell) if source.lacks else source


def hub_page(hub_id: str) -> str:
    """The page of a base on the hub, or on the mirror that the environment names."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{hub_id}"


def download_command(hub_id: str, skip_weights: Sequence[str] = ()) -> str:
    """What a person types to have a base on this disk."""
    includes = " ".join(f"--include '{pattern}'" for pattern in ALLOW_PATTERNS)
    excludes = " ".join(f"--exclude '{pattern}'" for pattern in ignore_patterns_of(skip_weights))
    return f"hf download {hub_id} {includes} {excludes}"


def ignore_patterns_of(skip_weights: Sequence[str]) -> list[str]:
    """What is not fetched of a base when the weights of some parts are not needed."""
    return [*IGNORE_PATTERNS, *(f"{part}/*.safetensors" for part in skip_weights)]


def announce(  # noqa: PLR0913  what is fetched, and where to
    name: str,
    hub_id: str,
    tell: Callable[[str], None],
    ignore_patterns: Sequence[str],
    home: Path | None,
    patterns: Sequence[str] = ALLOW_PATTERNS,
) -> None:
    """Say what is about to be fetched: the hub itself knows the size, and the licence of what is not ours.

    Raises:
        DiskFull: What is not there yet has no room where it goes.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    facts = HfApi().model_info(hub_id, files_metadata=True)
    base = hub_bases().get(name)
    gated = base.gated if base else bool(facts.gated)
    licence = base.licence if base else ""
    if not licence:
        licence = str((facts.card_data or {}).get("license") or "no licence named on its page")
    files = [
        file
        for file in facts.siblings or ()
        if any(fnmatch(file.rfilename, pattern) for pattern in patterns)
        and not any(fnmatch(file.rfilename, pattern) for pattern in ignore_patterns)
    ]
    size = human(sum(file.size or 0 for file in files))
    missing = [
        file
        for file in files
        if not isinstance(try_to_load_from_cache(hub_id, file.rfilename, cache_dir=home), str)
    ]
    gate = "; gated: its licence must be accepted on the hub first" if gated else ""
    tell(f"Fetching {hub_id}: {size} in {len(files)} files; licence: {licence}{gate}.")
    require_space(Path(home or constants.HF_HUB_CACHE), sum(file.size or 0 for file in missing), hub_id)


def _from_hub(name: str, tell: Callable[[str], None], skip_weights: Sequence[str] = ()) -> Path:
    from huggingface_hub import errors, snapshot_download

    base, hub_id = hub_bases().get(name), hub_id_of(name)
    licence, gated = (base.licence, base.gated) if base else ("", False)
    ask = f"accept its licence on the hub's page of {hub_id}, then `hf auth login`, then " if gated else ""
    remedy = f"{ask}`{download_command(hub_id, skip_weights)}`"
    ignore_patterns = ignore_patterns_of(skip_weights)
    patterns: dict[str, Any] = {"allow_patterns": list(ALLOW_PATTERNS), "ignore_patterns": ignore_patterns}
    # What is fetched in part lies apart from the hub's own cache, where it would pass for the whole base.
    homes = [None, user_cache("lenders") / "-".join(skip_weights)] if skip_weights else [None]
    for home in homes:
        try:
            return Path(snapshot_download(hub_id, **patterns, cache_dir=home, local_files_only=True))
        except (errors.LocalEntryNotFoundError, errors.HFValidationError, FileNotFoundError):
            pass  # not on this disk yet
    offline_text = (
        f"{hub_id}{licence and f' ({licence})'} is not on this disk and the hub cannot be reached. "
    )
    with fetching(
        hub_id, gated=f"{hub_id} is gated: {remedy}.", offline_text=f"{offline_text}With network: {remedy}."
    ):
        announce(name, hub_id, tell, ignore_patterns, homes[-1])
        return Path(snapshot_download(hub_id, **patterns, cache_dir=homes[-1]))


@contextmanager
def fetching(hub_id: str, *, gated: str, offline_text: str) -> Iterator[None]:
    """Say in our words why something cannot be had from the hub.

    Args:
        hub_id: Whose it is.
        gated: What to say when its licence was not accepted.
        offline_text: What to say when the hub cannot be reached.

    Raises:
        BadBase: It cannot be had.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise BadBase(gated) from error
    except errors.RepositoryNotFoundError as error:
        raise BadBase(f"The hub has no {hub_id}, or it is private. Check the name, or log in.") from error
    except errors.HFValidationError as error:
        raise UnknownBase(f"{hub_id!r} is no folder here and no valid hub id (owner/name).") from error
    except (errors.HTTPError, OSError) as error:  # LocalEntryNotFoundError and offline mode among them
        raise BadBase(offline_text) from error


def _open(root: Path, name: str) -> Source:
    if not index_path(root).is_file():
        raise BadBase(
            f"{root} has no model_index.json, so it is not a base in diffusers layout. "
            "Point at the folder that holds model_index.json, transformer/, vae/."
        )
    path = root / "limner.json"
    facts = _json(path) if path.is_file() else {}
    for key, maximum in FACTS.items():
        value = facts.get(key, 1)
        if type(value) not in (int, float) or not 0 < value <= maximum:
            raise BadBase(f"{path}: {key} is {value!r:.60}; it must be a number above 0, at most {maximum}.")
    source = Source(root, name, facts)
    require_plain(root, source.index)
    if not source.lacks:
        return source
    return replace(source, donor_folders=imported("limner.models.hub:shared")(source))


def _pair(entry: Any) -> Any:
    """An entry of an index as ``model_index.json`` has it: of a modular one, which says the place too."""
    if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], dict):
        hint = entry[2].get("type_hint")
        return hint if entry[:2] == [None, None] and isinstance(hint, list) else entry[:2]
    return entry


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadBase(f"{path} is missing: the base is incomplete. Download or copy it again.") from error
    except (ValueError, RecursionError, OSError) as error:
        raise BadBase(f"{path} cannot be read ({error}). Download or copy the base again.") from error
    if not isinstance(value, dict):
        raise BadBase(f"{path} holds no JSON object. Download or copy the base again.")
    return value


def content(path: Path) -> str:
    """SHA-256 of a file: its name in the hub's cache where it lies there, else read once and noted."""
    real = real_path(path)
    if len(real.name) == 64 and real.parent.name == "blobs":
        return real.name
    facts = real.stat()
    if facts.st_size < 2**20:
        return sha256_file(real)
    key = f"{real} {facts.st_size} {facts.st_mtime_ns}"
    note = user_cache("fingerprints") / f"{hashlib.sha256(key.encode()).hexdigest()}.txt"
    words = note.read_text(errors="replace").split() if note.is_file() else []
    if len(words) == 1 and len(words[0]) == 64:
        return words[0]
    value = sha256_file(real)
    write_text(note, value + "\n")
    return value
