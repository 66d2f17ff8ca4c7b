"""The header of a LoRA file: what any may be, decided before a tensor is made, and what ours says of itself.

Ours has ModelSpec 1.0.1, the ``ss_`` entries of sd-scripts, and the trigger.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

from limner.errors import BadLora
from limner.files import foreign
from limner.lora.adapters import Dora, WeightDelta, kind
from limner.models.key_map import SOFTWARE
from limner.run_folder import CHECKPOINT_ENTRY

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""The dtypes of LoRA factors, in safetensors' names, with their bytes."""

NUMBERS = SIZES | {"F64": 8, "I64": 8, "I32": 4}
"""Those of a lone number, alpha."""

ALONE = (0, 1)
"""Sides of a lone number."""

MOST_TENSORS = 20_000
LARGEST_HEADER = 16_000_000
LARGEST_METADATA = 1_000_000
"""Bytes; readers show the metadata to people."""

LONGEST_NAME = 300
"""Characters of a key."""

FACTORS = re.compile(r"\.(lora_\w+|hada_\w+|lokr_\w+|down|up|alpha|dora_scale)(\.|$)")
"""What the keys of factors have in them."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself, checked."""

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]]
    """Name -> dtype, shape, first byte, last byte + 1, counted from the end of the header; in file order."""
    start: int
    """Where in the file the header ends and the tensors' bytes begin."""


def header_text(path: Path, limit: int) -> tuple[bytes, int]:
    """The JSON of a safetensors file, unread, and where the tensors' bytes begin.

    Args:
        path: The file.
        limit: Bytes that the header may have.

    Raises:
        ValueError: The file begins with no length that it can have.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size, head = path.stat().st_size, file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, limit):
            raise ValueError(f"its header claims {length} bytes of a file of {size}")
        return file.read(length), 8 + length


def header(path: Path) -> Header:
    """Read and check the header of a LoRA file.

    Raises:
        BadLora: Anything is not as it must be; the message names what.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if reason := foreign(file.read(64)):
                raise BadLora(f"{path} {reason}")
        text, start = header_text(path, LARGEST_HEADER)
    except OSError as error:
        raise BadLora(
            f"{path} cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error
    except ValueError as error:
        _refuse(path, str(error))
    table = _json(path, text)
    metadata = _metadata(path, table.pop("__metadata__", {}))
    if CHECKPOINT_ENTRY in metadata:
        raise BadLora(
            f"{path} is a checkpoint of a run and no LoRA. The LoRA of its step is given out by: "
            "limner export RUN --step N"
        )
    if not 0 < len(table) <= MOST_TENSORS:
        _refuse(path, f"it holds {len(table)} tensors, and a LoRA has 1 to {MOST_TENSORS}")
    tensors = {name: _tensor(path, name, entry) for name, entry in table.items()}
    by_offset = dict(sorted(tensors.items(), key=lambda item: item[1][2]))
    _refuse_gaps(path, by_offset, size - start)
    return Header(metadata, by_offset, start)


def _refuse(path: Path, reason: str) -> NoReturn:
    raise BadLora(f"{path} is not a safe LoRA file: {reason}. Get it again, or export it again.")


def _json(path: Path, text: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = {}
        for key, value in pairs:
            if key in result:
                _refuse(path, f"its header has {key[:60]!r} twice")
            result[key] = value
        return result

    def no_constants(word: str) -> NoReturn:
        _refuse(path, f"its header holds {word}, which JSON does not know")

    try:
        table = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants)
    except (ValueError, RecursionError) as error:
        raise BadLora(
            f"{path} is not a safe LoRA file: its header is not JSON ({str(error)[:60]}). Get it again."
        ) from error
    if not isinstance(table, dict):
        _refuse(path, f"its header is a JSON {type(table).__name__}, not an object")
    return table


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "its metadata is not made of strings")
    size = sum(len(key) + len(value) for key, value in metadata.items())
    if size > LARGEST_METADATA:
        _refuse(path, f"its metadata has {size} characters, more than {LARGEST_METADATA}")
    return metadata


def _tensor(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME or not set(name).isdisjoint("/\\"):
        _refuse(path, f"the key {name[:60]!r} has characters that no name of a module has")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            _refuse(path, f"{name} has no dtype, shape and place")
    sizes, sides = _expected(name)
    if dtype not in sizes:
        _refuse(path, f"{name} is {dtype[:20]}, and factors are {', '.join(sizes)}")
    if shape and all(type(side) is int for side in shape) and 0 in shape and start == end:
        raise BadLora(
            f"{path} holds empty tensors, the first is {name}: it was saved from a model split by ZeRO-3 or "
            "FSDP. Gather the weights before saving, and save it again."
        )
    if not all(type(side) is int and side > 0 for side in shape) or len(shape) not in sides:
        counts = " or ".join(map(str, sides))
        _refuse(path, f"{name} has the shape {str(shape)[:60]}, and factors have {counts} sides, none empty")
    if sides == ALONE and math.prod(shape) != 1:
        _refuse(path, f"{name} has the shape {str(shape)[:60]}, and alpha is one number")
    if end - start != math.prod(shape) * sizes[dtype]:
        _refuse(path, f"{name} has {end - start} bytes for the shape {shape} of {dtype}")
    return dtype, tuple(shape), start, end


def _expected(name: str) -> tuple[dict[str, int], tuple[int, ...]]:
    """The dtypes and the numbers of sides that a tensor of this name may have."""
    if name.endswith((".alpha", ".scale_weight", ".scale_input", ".weight_scale")):
        return NUMBERS, ALONE
    if not FACTORS.search(name):
        return NUMBERS | SIZES, (1, 2, 3, 4)  # beside the factors: biases, norms, embeddings
    return SIZES, (1, 2, 4) if "lora_magnitude_vector" in name or name.endswith(".bias") else (2, 4)


def _refuse_gaps(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], int, int]], size: int) -> None:
    expected = 0
    for name, (_, _, start, end) in tensors.items():
        if start != expected:
            _refuse(path, f"{name} begins at byte {start}, and {expected} is where the tensor before it ends")
        expected = end
    if expected < size:
        _refuse(path, f"{size - expected} bytes trail behind the last tensor")
    if expected > size:
        _refuse(path, f"{expected - size} bytes are missing at its end")


HASH = "modelspec.hash_sha256"

PUBLIC = re.compile(
    r"modelspec\..*|limner\..*|software|format|ss_(base_model_version|sd_model_name|output_name|v2|"
    r"network_module|network_dim|network_alpha|network_args|resolution|steps|epoch|num_epochs|"
    r"max_train_steps|seed|learning_rate|unet_lr|text_encoder_lr|optimizer|lr_scheduler|zero_terminal_snr|"
    r"noise_offset|min_snr_gamma|clip_skip|mixed_precision|trigger_words)"
)
"""Entries that tell of the LoRA and nothing of its maker's images or machine."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")

LORA_ON = "limner.lora_on"
GUIDANCE = "limner.guidance"
NEGATIVE_LORA = "limner.negative_lora"
BRANCHES = ("both", "positive")


@dataclass(frozen=True, kw_only=True)
class SamplingHints:
    """What a LoRA asks for. Nothing of it where the metadata say nothing."""

    lora_on: str = "both"
    """Branches of guidance that it is on: one of :data:`BRANCHES`."""
    guidance: float | None = None
    """Guidance scale that goes with it; None is the base's own."""
    negative_lora: str = ""
    """Name of a file beside it: the LoRA for the negative branch."""

    def __post_init__(self) -> None:
        """A LoRA of its own for the negative branch takes the other off it."""
        if self.negative_lora:
            object.__setattr__(self, "lora_on", "positive")

    @property
    def splits_branches(self) -> bool:
        """Whether the branches of guidance differ in their LoRA."""
        return self.lora_on == "positive"

    def entries(self) -> dict[str, str]:
        """As they stand in a file; what is the default is left out."""
        texts = {
            LORA_ON: "" if self.lora_on == "both" else self.lora_on,
            GUIDANCE: "" if self.guidance is None else f"{self.guidance:g}",
            NEGATIVE_LORA: self.negative_lora,
        }
        return {key: text for key, text in texts.items() if text}


@dataclass(frozen=True, kw_only=True)
class LoraMetadata:
    """What a person may want to know of a LoRA later. No captions, and no paths of this machine."""

    title: str
    architecture: str
    """ModelSpec's string of the base with "/lora": "flux-1-dev/lora", "flux-1-schnell/lora"."""
    base: str
    """Name or hub id of the base; of a folder, only the last part is written."""
    base_version: str
    """sd-scripts' word for the family: "flux1", "sdxl_base_v1-0"."""
    trigger: str = ""
    resolution: tuple[int, int] | None = None
    """Width and height of the training images, in pixels."""
    steps: int | None = None
    seed: int | None = None
    author: str = ""
    description: str = ""
    license: str = ""
    prediction: str = ""
    """ModelSpec's word for what a denoiser in steps says: "epsilon" or "v"."""
    zero_terminal_snr: bool = False
    """Whether its last step is pure noise."""
    sampling: SamplingHints = SamplingHints()
    """How it wants to be sampled."""
    date: str = ""
    """ISO 8601; now, when empty."""


def header_entries(info: LoraMetadata, components: Mapping[str, Mapping[str, WeightDelta]]) -> dict[str, str]:
    """The entries of the file's header, all strings; empty ones are left out. The hash is added on writing.

    The trigger stands in the three places where readers look: ``modelspec.trigger_phrase``,
    ``ss_trigger_words`` and ``ss_tag_frequency``. Rank and alpha are equal, since scales are baked in.
    """
    size = info.resolution
    entries = {
        "software": f"{SOFTWARE} {version('limner')}",
        **_modelspec(info),
        **info.sampling.entries(),
        "ss_v2": "False",
        "ss_base_model_version": info.base_version,
        "ss_sd_model_name": without_path(info.base),
        **network_entries(components),
        "ss_output_name": info.title,
        "ss_resolution": f"({size[0]}, {size[1]})" if size else "",
        "ss_steps": _number(info.steps),
        "ss_seed": _number(info.seed),
        "ss_zero_terminal_snr": "True" if info.zero_terminal_snr else "",
        "ss_trigger_words": info.trigger,
        "ss_tag_frequency": _tag_frequency(info.trigger) if info.trigger else "",
    }
    return {key: value for key, value in entries.items() if value}


def network_entries(components: Mapping[str, Mapping[str, WeightDelta]]) -> dict[str, str]:
    """What kohya's tools ask of a network: the program that knows its kind, its rank, its arguments."""
    deltas = [delta for adapter in components.values() for delta in adapter.values()]
    ranks, kinds = {delta.rank for delta in deltas}, sorted({kind(delta) for delta in deltas})
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    plain = kinds == ["LoRA"]
    names = sorted({name.removeprefix("DoRA of ").replace("DoRA", "LoRA").lower() for name in kinds})
    algorithm = {} if plain else {"algo": "+".join(names)}
    decomposed = {"dora_wd": True} if any(isinstance(delta, Dora) for delta in deltas) else {}
    return {
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": _dumped({**algorithm, **decomposed, "components": sorted(components)}),
    }


def _modelspec(info: LoraMetadata) -> dict[str, str]:
    size = info.resolution
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": info.architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": info.title,
        "modelspec.resolution": f"{size[0]}x{size[1]}" if size else "",
        "modelspec.description": info.description,
        "modelspec.author": info.author,
        "modelspec.license": info.license,
        "modelspec.prediction_type": info.prediction,
        "modelspec.date": info.date or datetime.now(UTC).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": info.trigger,
        "modelspec.usage_hint": f"Write {info.trigger!r} in the prompt." if info.trigger else "",
    }


def triggers(entries: Mapping[str, str]) -> tuple[str, ...]:
    """The trigger words that a file's metadata names, in the order in which readers look, each once."""
    phrases: Iterable[str] = (
        entries.get("modelspec.trigger_phrase", ""),
        entries.get("ss_trigger_words", ""),
    )
    return tuple(dict.fromkeys(word for word in phrases if word))


def public_entries(entries: Mapping[str, str]) -> dict[str, str]:
    """Metadata without what is private: folders, captions, tags, sessions, and the path of the base."""
    public = {key: value for key, value in entries.items() if PUBLIC.fullmatch(key)}
    tags = entries.get("ss_tag_frequency", "")
    if tags in map(_tag_frequency, triggers(entries)):  # of no caption: ours
        public["ss_tag_frequency"] = tags
    if "ss_sd_model_name" in public:
        public["ss_sd_model_name"] = without_path(public["ss_sd_model_name"])
    return public


def sampling_hints(metadata: Mapping[str, str]) -> SamplingHints:
    """What a file's metadata ask for.

    Raises:
        BadLora: An entry means nothing; a path leads out of the file's folder.
    """
    lora_on, text = metadata.get(LORA_ON, "both"), metadata.get(GUIDANCE, "")
    if lora_on not in BRANCHES:
        raise BadLora(f"Its {LORA_ON} is {lora_on!r:.60}; it must be {' or '.join(BRANCHES)}.")
    guidance = None
    if text:
        try:
            guidance = float(text)
        except ValueError:
            guidance = math.nan
        if not 0 <= guidance <= 100:
            raise BadLora(f"Its {GUIDANCE} is {text!r:.60}; it must be a number from 0 to 100.")
    name = metadata.get(NEGATIVE_LORA, "")
    if name and (not name.endswith(".safetensors") or any(mark in name for mark in "/\\:\0")):
        raise BadLora(f"Its {NEGATIVE_LORA} is {name!r:.60}; it must name a .safetensors file beside it.")
    return SamplingHints(lora_on=lora_on, guidance=guidance, negative_lora=name)


def without_path(base: str) -> str:
    """A hub id as it is; of a path on somebody's machine only the last part."""
    if HUB_ID.fullmatch(base):
        return base
    return PurePosixPath(PureWindowsPath(base).as_posix()).name


def _tag_frequency(trigger: str) -> str:
    return _dumped({f"1_{trigger}": {trigger: 1}})


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
