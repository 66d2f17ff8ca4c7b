"""What a LoRA file says about itself: ModelSpec 1.0.1, the ``ss_`` entries of sd-scripts, the trigger."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import PurePosixPath, PureWindowsPath

from limner.errors import BadLora
from limner.lora.factors import Adapter
from limner.models.lora_keys import SOFTWARE

HASH = "modelspec.hash_sha256"

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


def header_entries(info: LoraMetadata, components: Mapping[str, Adapter]) -> dict[str, str]:
    """The entries of the file's header, all strings; empty ones are left out. The hash is added on writing.

    The trigger stands in the three places where readers look: ``modelspec.trigger_phrase``,
    ``ss_trigger_words`` and ``ss_tag_frequency``. Rank and alpha are equal, since scales are baked in.
    """
    ranks = {factors.rank for adapter in components.values() for factors in adapter.values()}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    size = info.resolution
    entries = {
        "software": f"{SOFTWARE} {version('limner')}",
        **_modelspec(info),
        **info.sampling.entries(),
        "ss_v2": "False",
        "ss_base_model_version": info.base_version,
        "ss_sd_model_name": without_path(info.base),
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": _json({"components": sorted(components)}),
        "ss_output_name": info.title,
        "ss_resolution": f"({size[0]}, {size[1]})" if size else "",
        "ss_steps": _number(info.steps),
        "ss_seed": _number(info.seed),
        "ss_zero_terminal_snr": "True" if info.zero_terminal_snr else "",
        "ss_trigger_words": info.trigger,
        "ss_tag_frequency": _json({f"1_{info.trigger}": {info.trigger: 1}}) if info.trigger else "",
    }
    return {key: value for key, value in entries.items() if value}


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


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
