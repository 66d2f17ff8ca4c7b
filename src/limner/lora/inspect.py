"""The verb ``lora info``: what a LoRA file is, without trusting what it says of itself."""

import base64
import binascii
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from limner.errors import BadLora
from limner.lora import embeddings, file
from limner.lora.adapters import kind
from limner.lora.diffusers_reader import as_loaded
from limner.lora.file import require_equal
from limner.lora.metadata import triggers as metadata_triggers
from limner.lora.tools import DIFFUSERS, TOOLS, decode_as
from limner.models.registry import family_keys
from limner.reporter import counted

SHOWN = 300
"""Characters of a text by a stranger that are shown."""

NO_FAMILY = "Nothing tells its family, so not which tools load it either. Say it with --family."

TRAINING = {
    "base": ("ss_sd_model_name", "ss_base_model_version"),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "resolution": ("modelspec.resolution", "ss_resolution"),
    "learning rate": ("ss_learning_rate", "ss_unet_lr"),
    "date": ("modelspec.date",),
    "licence": ("modelspec.license",),
    "author": ("modelspec.author",),
    "software": ("software", "modelspec.implementation"),
    "merged from": ("modelspec.merged_from",),
}

THUMBNAIL = "modelspec.thumbnail"
LARGEST_THUMBNAIL = 350_000
"""Characters of base64, about 256 kB of picture."""
MOST_PIXELS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class ComponentSummary:
    """One model's part of a file."""

    name: str
    modules: int
    kinds: tuple[str, ...]
    ranks: dict[str, int]
    """Rank -> modules of it."""
    targets: dict[str, int]
    """Ending of module names -> how many."""
    norm: float
    """Frobenius norm of all changes together; of a DoRA that of its factors."""
    strongest: tuple[tuple[str, float], ...]
    """The five modules of the largest norm."""


@dataclass(frozen=True, kw_only=True)
class LoraInfo:
    """What is known of a file."""

    path: Path
    bytes: int
    dtype: str
    family: str | None
    form: str
    title: str
    triggers: tuple[str, ...]
    training: dict[str, str]
    components: tuple[ComponentSummary, ...]
    loads: dict[str, str]
    """Tool -> "yes", or what it would do instead."""
    thumbnail: str
    """Format and size of the picture in it, "" for none, or why it is not shown."""
    problems: tuple[str, ...]


def inspect(path: Path, family: str | None = None) -> LoraInfo:
    """Read a file and say what is in it.

    Raises:
        BadLora: The file is not safe or not understood.
    """
    path = file.weights_file(path)
    if embeddings.is_embedding(path):
        return _of_words(path, family)
    lora = file.read(path, family)
    return LoraInfo(
        path=path,
        bytes=path.stat().st_size,
        dtype=file.DTYPES.get(lora.dtype, str(lora.dtype)),
        family=lora.family,
        form=lora.form,
        title=printable(lora.metadata.get("modelspec.title", "") or lora.metadata.get("ss_output_name", "")),
        triggers=tuple(map(printable, metadata_triggers(lora.metadata))),
        training=_training(lora.metadata),
        components=tuple(_component(name, adapter) for name, adapter in lora.components.items()),
        loads=_loads(path, lora),
        thumbnail=thumbnail(lora.metadata.get(THUMBNAIL, "")),
        problems=(*lora.notes, *lora.repairs, *lora.unread, *(NO_FAMILY,) * (lora.family is None)),
    )


def _of_words(path: Path, family: str | None) -> LoraInfo:
    """A textual inversion: which word, how many vectors, for which encoders."""
    embedding = embeddings.read(path)
    shapes = ", ".join(f"{key} {' x '.join(map(str, each.shape))}" for key, each in embedding.vectors.items())
    words = metadata_triggers(embedding.metadata) or (embedding.word,)
    count = counted(embedding.count, "vector")
    able = embeddings.families_of(embedding)
    return LoraInfo(
        path=path,
        bytes=path.stat().st_size,
        dtype="float32",
        family=family or (able[0] if len(able) == 1 else None),
        form=f"textual inversion, {count} of {printable(embedding.word)!r} ({shapes})",
        title=printable(embedding.metadata.get("modelspec.title", "")),
        triggers=tuple(map(printable, words)),
        training=_training(embedding.metadata),
        components=(),
        loads={
            "diffusers": "yes, by load_textual_inversion, once for each encoder",
            "kohya": "yes (A1111, Forge), as the word that the file is named after",
            "comfyui": "yes, as embedding:NAME of the file",
        },
        thumbnail=thumbnail(embedding.metadata.get(THUMBNAIL, "")),
        problems=(),
    )


def printable(text: str) -> str:
    """A stranger's text for a terminal: no control characters, nothing that writes backwards, not endless."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return clean if len(clean) <= SHOWN else f"{clean[:SHOWN]} .."


def _training(metadata: Mapping[str, str]) -> dict[str, str]:
    entries = {
        name: next((metadata[key] for key in keys if metadata.get(key)), "")
        for name, keys in TRAINING.items()
    }
    return {name: printable(text) for name, text in entries.items() if text and text != "None"}


def _component(name: str, adapter: Mapping[str, Any]) -> ComponentSummary:
    norms = {module: change.norm() for module, change in adapter.items()}
    ranks = Counter(change.rank for change in adapter.values())
    return ComponentSummary(
        name=name,
        modules=len(adapter),
        kinds=tuple(sorted({kind(change) for change in adapter.values()})),
        ranks={str(rank): count for rank, count in sorted(ranks.items())},
        targets=dict(Counter(_ending(module) for module in adapter).most_common()),
        norm=sum(norm**2 for norm in norms.values()) ** 0.5,
        strongest=tuple(sorted(norms.items(), key=lambda item: -item[1])[:5]),
    )


def _ending(module: str) -> str:
    parts = module.split(".")
    last = max((n for n, part in enumerate(parts) if part.isdigit() and n < len(parts) - 1), default=-1)
    return ".".join(parts[last + 1 :])


def _loads(path: Path, lora: file.LoraFile) -> dict[str, str]:
    """Each tool's own rules tried on the very file."""
    if lora.family is None:
        return {}
    names, results = family_keys(lora.family), {}
    for name, tool in TOOLS.items():
        if name not in names.tools:
            results[name] = f"no: it has no reader for {names.family}"
            continue
        try:
            if tool is DIFFUSERS:
                components = as_loaded(path, names)
            else:
                view = decode_as(file.tensors(path), lora.family, tool)
                if skips := view.skipped_modules:
                    results[name] = f"passes over {len(skips)} of its parts, the first is {skips[0]}"
                    continue
                components = view.components
            require_equal(path.name, name, components, lora.components, lora.dtype)
            results[name] = "yes"
        except BadLora as error:
            results[name] = f"no: {_reason(str(error), path, name)}"
    return {
        name: text
        if text == "yes" or name not in names.tools
        else f"{printable(text)} -> limner lora convert --to {name}"
        for name, text in results.items()
    }


def _reason(text: str, path: Path, tool: str) -> str:
    """Why a tool does not load a file, without the advice for files of our own."""
    start = f"{path.name}: "
    fact = text.removeprefix(start).partition(". Export again; if it stays so")[0]
    return fact.replace(f"{tool} reads ", "it reads ", 1)


def thumbnail(url: str) -> str:
    """What the picture of a file is: its format and size, decoded under limits; "" when there is none."""
    if not url:
        return ""
    start, _, data = url.partition(";base64,")
    if start not in ("data:image/jpeg", "data:image/png", "data:image/webp"):
        return "not shown: it is no JPEG, PNG or WebP"
    if len(data) > LARGEST_THUMBNAIL:
        return f"not shown: it has {len(data)} characters, over {LARGEST_THUMBNAIL}"
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(data, validate=True)), formats=("JPEG", "PNG", "WEBP")
        ) as image:
            if image.width * image.height > MOST_PIXELS:
                return f"not shown: it has {image.width} x {image.height} pixels"
            image.load()
            return f"{image.format}, {image.width} x {image.height}"
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        return f"not shown: it cannot be decoded ({type(error).__name__})"


def table(info: LoraInfo) -> list[str]:
    """The lines that people read."""
    lines = [f"{info.path.name}: {info.form}, {info.dtype}, {info.family or 'of no known family'}"]
    facts = {
        "title": info.title,
        "trigger": ", ".join(info.triggers),
        **info.training,
        "picture": info.thumbnail,
    }
    lines += [f"  {name:14} {text}" for name, text in facts.items() if text]
    for part in info.components:
        ranks = ", ".join(f"{rank} ({count})" for rank, count in list(part.ranks.items())[:8])
        lines.append(f"  {part.name}: {part.modules} modules, {'+'.join(part.kinds)}, rank {ranks}")
        lines.append(f"    targets  {', '.join(f'{name} ({count})' for name, count in part.targets.items())}")
        strongest = ", ".join(f"{module} {norm:.3g}" for module, norm in part.strongest[:3])
        lines.append(f"    norm     {part.norm:.4g}; strongest {strongest}")
    lines += [f"  loads in {tool:10} {text}" for tool, text in info.loads.items()]
    return lines + [f"  note: {problem}" for problem in info.problems]
