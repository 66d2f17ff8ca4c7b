"""Scales that peft keeps outside the tensors: in adapter_config.json, and, by diffusers, in a file's header.

A peft adapter stores its factors unscaled: dW = lora_alpha / r * up @ down, or lora_alpha / sqrt(r) with
rslora (Kalajdzievski, arXiv:2312.03732). Patterns give single modules an alpha of their own. The rules are
those of peft 0.21.2 (``get_pattern_key``) and diffusers 0.42.1 (``_collate_lora_metadata``).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadLora

HEADER_KEY = "lora_adapter_metadata"
"""The header entry in which diffusers keeps peft's config; no other tool reads it."""

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""The two files of a folder that peft's ``save_pretrained`` writes."""

LARGEST_CONFIG = 1_000_000
"""Bytes."""

MOST_QUANTIFIERS = 3
"""In a pattern: more could take for ever, and a pattern comes from a stranger."""

CHANGED_BASES = ("pissa", "olora", "loftq", "corda", "eva", "lora_ga")
"""Beginnings of ``init_lora_weights`` that change the weights of the base: the factors alone are no dW."""


@dataclass(frozen=True)
class PeftConfig:
    """What a config says of the strength of its modules."""

    source: str
    """Where it stood, for messages."""
    alpha: float
    rank: int | None
    """r; None where the config does not say."""
    rslora: bool
    alpha_pattern: Mapping[str, float]
    """Pattern of module names -> alpha; the first that fits counts."""
    rank_pattern: Mapping[str, float]
    base: str = ""
    """What the base is called, where the config says it; of no bearing on the strength."""

    def scale(self, module: str, rank: int | None) -> float:
        """What dW of ``module`` is multiplied by.

        Args:
            module: Its name as peft has it, without prefix.
            rank: Of its factors; None where they do not show it (LoKr of two whole matrices).

        Raises:
            BadLora: The rank is in neither, or a pattern is none.
        """
        alpha = _first(self.alpha_pattern, module, self.source, self.alpha)
        rank = rank or int(_first(self.rank_pattern, module, self.source, self.rank or 0))
        if rank < 1:
            raise BadLora(f"{self.source} has no rank for {module}. Save the adapter again.")
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _first(patterns: Mapping[str, float], module: str, source: str, fallback: float) -> float:
    for pattern, value in patterns.items():
        if _fits(pattern, module, source):
            return value
    return fallback


def _fits(pattern: str, module: str, source: str) -> bool:
    """As peft matches: a regular expression for the whole name, or for its last levels."""
    quantifiers = len(re.findall(r"(?<!\\)[*+{]", pattern))
    if quantifiers > MOST_QUANTIFIERS or re.search(r"\)[*+{]", pattern):
        raise BadLora(f"{source} has the pattern {pattern[:60]!r}, too intricate to be tried. Simplify it.")
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except (re.error, RecursionError) as error:
        raise BadLora(f"{source} has the pattern {pattern[:60]!r}, which is none. Correct it.") from error


def in_header(metadata: Mapping[str, str]) -> dict[str, PeftConfig]:
    """Component -> config, of a file's header; empty when it has none.

    Raises:
        BadLora: The entry is not what diffusers writes.
    """
    if HEADER_KEY not in metadata:
        return {}
    entries = _object(metadata[HEADER_KEY], HEADER_KEY)
    components: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        component, _, name = key.partition(".")
        components.setdefault(component, {})[name] = value
    return {
        component: _config(entries, f"{HEADER_KEY} for {component}")
        for component, entries in components.items()
    }


def in_folder(path: Path) -> PeftConfig | None:
    """The config beside a file, where the file is peft's own and the config is there.

    Raises:
        BadLora: The config cannot be read, or its adapter is more than what the file holds.
    """
    config = path.with_name(CONFIG_FILE)
    if path.name != WEIGHTS_FILE or not config.is_file():
        return None
    try:
        if config.stat().st_size > LARGEST_CONFIG:
            raise BadLora(f"{config} has over {LARGEST_CONFIG} bytes. Save the adapter again.")
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadLora(f"{config} cannot be read ({error}). Check the file and its permissions.") from error
    return _config(_object(text, str(config)), str(config))


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLora(f"{source} is not JSON. Remove it, or export again.") from error
    if not isinstance(entries, dict):
        raise BadLora(f"{source} is no JSON object. Remove it, or export again.")
    return entries


def _config(entries: Mapping[str, Any], source: str) -> PeftConfig:
    start = str(entries.get("init_lora_weights") or "").lower()
    if start.startswith(CHANGED_BASES):
        raise BadLora(
            f"{source} names init_lora_weights {start!r}, which changes the weights of the base: the factors "
            "are no LoRA of it. Save it with peft's path_initial_model_for_weight_conversion."
        )
    try:
        # LoHa and LoKr call it alpha.
        alpha = float(entries["lora_alpha"] if "lora_alpha" in entries else entries["alpha"])
        rank = entries.get("r")
        config = PeftConfig(
            source,
            alpha,
            None if rank is None else int(rank),
            bool(entries.get("use_rslora", False)),
            _numbers(entries.get("alpha_pattern")),
            _numbers(entries.get("rank_pattern")),
            str(entries.get("base_model_name_or_path") or "")[:1000],
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadLora(f"{source} has no lora_alpha that is a number. Export again.") from error
    if not all(math.isfinite(number) for number in (alpha, *config.alpha_pattern.values())):
        raise BadLora(f"{source} has a lora_alpha that is not finite. Export again.")
    return config


def _numbers(pattern: Any) -> dict[str, float]:
    return {str(key): float(value) for key, value in (pattern or {}).items()}
