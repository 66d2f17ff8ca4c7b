"""What the configs of a base may say: names of the family's own classes, and nothing that brings code along.

A base is data of a stranger. The libraries that open it import what its configs name: a class, a package of
attention kernels, a quantizer, a file of Python beside the weights. So whatever names code is held against
the family's own list before a library sees the folder.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limner.errors import BadBase
from limner.models.facts import FamilyFacts
from limner.models.registry import facts_of, index_path

CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "scheduler_config.json")
"""Files of a part that its library reads."""
CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
"""Keys under which a config names code of its own."""
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
KERNEL_KEYS = (*ATTENTION_KEYS, "experts_implementation", "_experts_implementation")
"""Keys under which a config may name a package of kernels, on this machine or on the hub."""
KERNELS = (None, "eager", "sdpa")
"""Attention that torch itself computes."""
DTYPES = (None, "auto", "float32", "float16", "bfloat16", "float64")
GENERAL_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""A tokenizer of no model's own, as transformers 4 and 5 call it."""
MAX_LAYERS = 1000
"""Of any part. The largest of known bases have 60; each is built before its weights are looked for."""
MAX_NUMBER = 2**31
"""Of any whole number that describes a model; tokenizers call an endless text 10^30 tokens long."""
MAX_DEPTH = 20
"""Of lists and tables within each other."""


def require_plain(root: Path, index: Mapping[str, Any]) -> None:
    """Refuse a base whose configs name code that its family does not.

    A base of no family here passes: it is refused where its family is asked for.

    Args:
        root: The folder in diffusers layout.
        index: Its ``model_index.json``, or what stands for it (``Source.index``).

    Raises:
        BadBase: The message names the file and the key.
    """
    path = index_path(root)
    _require_entries(path, index)
    facts = facts_of(str(index.get("_class_name")))
    if facts is None:
        return
    _require_index(path, index, facts)
    for part in (*facts.parts, "scheduler"):
        for path in (root / part / name for name in CONFIGS):
            if path.is_file():
                _require_config(path, part, facts)


def class_names(part: str, facts: FamilyFacts) -> tuple[str, ...]:
    """The classes by which a part may be called: of a tokenizer, the slow and the fast one are the same."""
    if part == "scheduler":
        return facts.samplers
    if part in facts.processors:
        return (facts.processors[part],)
    name = facts.parts[part].partition(":")[2]
    if name == GENERAL_TOKENIZER[0]:
        return GENERAL_TOKENIZER
    return (name.removesuffix("Fast"), f"{name.removesuffix('Fast')}Fast") if "Tokenizer" in name else (name,)


def _require_index(path: Path, index: Mapping[str, Any], facts: FamilyFacts) -> None:
    for part in (*facts.parts, "scheduler"):
        library = "diffusers" if part == "scheduler" else facts.parts[part].partition(":")[0]
        entry, names = index.get(part), class_names(part, facts)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == library and entry[1] in names):
            words = " or ".join(f'["{library}", "{name}"]' for name in names[:2])
            third = f" or another sampler of {facts.name}'s" if len(names) > 2 else ""
            raise BadBase(
                f"{path}: {part} is {_shown(entry)}, and a base of {facts.name} has {words}{third}. Correct "
                "it, or get the base again."
            )


def _require_entries(path: Path, index: Mapping[str, Any]) -> None:
    """Each list of names in the index is a library and a class; lists of numbers are settings."""
    for key, entry in index.items():
        if isinstance(entry, list) and len(entry) != 2 and all(_is_name(item) for item in entry):
            raise BadBase(
                f"{path}: {key} is {_shown(entry)}, which is no library and class. Write [null, null], or "
                "get the base again."
            )


def _is_name(item: object) -> bool:
    return item is None or isinstance(item, str)


def _require_config(path: Path, part: str, facts: FamilyFacts) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadBase(f"{path} cannot be read ({error}). Download or copy the base again.") from error
    if not isinstance(config, dict):
        raise BadBase(f"{path} holds no JSON object. Download or copy the base again.")
    is_model = path.name == "config.json"
    if is_model and facts.parts.get(part, "").startswith("diffusers:") or part == "scheduler":
        names = class_names(part, facts)
        if config.get("_class_name", names[0]) not in names:
            raise BadBase(
                f"{path}: _class_name is {_shown(config['_class_name'])}, and a base of {facts.name} has "
                f"{names[0]} there. Correct it, or get the base again."
            )
    for key, value, depth in _entries(config):
        fault, remedy = _fault(key, value, is_model=is_model)
        if depth > MAX_DEPTH:
            fault, remedy = "nests too deep", "Get the base again."
        if fault:
            raise BadBase(f"{path}: {key} is {_shown(value)}, which {fault}. {remedy}")


def _entries(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """Every key of a config and of the tables within it, with its value and how deep it lies."""
    for key, value in config.items():
        yield key, value, depth
        inner = value if isinstance(value, list) else [value]
        for item in inner if depth <= MAX_DEPTH else ():
            if isinstance(item, dict):
                yield from _entries(item, depth + 1)
            elif isinstance(item, list) and value is inner:
                yield from _entries({key: item}, depth + 1)


def _fault(key: str, value: object, *, is_model: bool) -> tuple[str, str]:
    """What is wrong with an entry, and what to do; "" where nothing is."""
    if key in CODE_KEYS and value:
        return "names code of the base's own, and Limner runs none", "Remove the key, or use another base."
    if key in KERNEL_KEYS and value not in KERNELS:
        return "is no attention of torch's own", 'Remove the key, or write "sdpa".'
    if key == "quantization_config" and value is not None:
        return (
            "says that the weights are stored quantized",
            "Use the base in bf16 or fp16: the plan quantizes it where that helps.",
        )
    if key in ("dtype", "torch_dtype") and not (isinstance(value, str | None) and value in DTYPES):
        return "is no precision of floating point weights", 'Write "bfloat16", or remove the key.'
    if is_model and type(value) is int and "layers" in key and value > MAX_LAYERS:
        return f"is more than {MAX_LAYERS}", "Get the base again."
    if is_model and type(value) is int and abs(value) > MAX_NUMBER:
        return f"is beyond {MAX_NUMBER}", "Get the base again."
    return "", ""


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
