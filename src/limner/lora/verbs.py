"""What can be done with LoRA files, as functions of plain values. Loads no torch until one is called."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

from limner.errors import BadUsage
from limner.events import OnEvent
from limner.lora.location import local, output_path
from limner.recipe.train import KindName
from limner.reporter import Reporter

if TYPE_CHECKING:
    from limner.lora.inspect import LoraInfo
    from limner.lora.operations import WriteResult
    from limner.lora.resizing import RankRule

ToolName = Literal["diffusers", "comfyui", "kohya", "sd-scripts", "musubi", "diffsynth"]


class RankKeys(TypedDict, total=False):
    """How the ranks of a new file are chosen: one of these."""

    rank: int
    """So many of every module."""
    energy: float
    """So that this share of each module's squared singular values stays, such as 0.99."""
    sum: float
    """So that this share of each module's singular values stays."""
    ratio: float
    """Singular values above the module's largest divided by this."""
    total_energy: float
    """So that this share over all modules stays, where it weighs most."""
    parameters: float
    """So many numbers in the whole file, where they weigh most."""


class KindKeys(RankKeys, total=False):
    """The ranks of a new file, and the kind of its adapters."""

    kind: KindName
    """What every module becomes: lora, loha, lokr or dora; as it is when left out."""
    factor: int
    """Of a LoKr: one side of its small matrix where it divides the layer's."""
    base: Path
    """Checkpoint of the base, which a DoRA needs."""


class ConvertKeys(TypedDict, total=False):
    """How a file is converted."""

    family: str
    """Family of the base, where names alone do not tell: flux, sdxl .."""
    dtype: str
    """float32, float16 or bfloat16; as it was when left out."""
    leave_out: bool
    """Leave out what the tool cannot read, instead of refusing the file."""
    flatten: int
    """Rank at which LoHa, LoKr and DoRA become plain LoRAs."""
    kind: KindName
    """What every module becomes: lora, loha, lokr or dora; as it is when left out."""
    rank: int
    """Of the kind; of each module what it is when left out."""
    factor: int
    """Of a LoKr: one side of its small matrix where it divides the layer's."""
    base: Path
    """Checkpoint of the base, which a DoRA needs."""
    keep_metadata: bool
    """Keep what the file says of its maker's dataset and machine."""


class ExtractKeys(TypedDict, total=False):
    """How the difference of two checkpoints is written."""

    family: str
    """Family of the base, where names alone do not tell: flux, sdxl .."""
    dtype: str
    """float32, float16 or bfloat16; float32 when left out."""
    to: ToolName
    """The tool that shall read it; diffusers when left out."""
    leave_out: bool
    """Leave out what the tool cannot read, instead of refusing it."""
    kind: KindName
    """Kind of adapter: lora, loha, lokr or dora; lora when left out."""
    factor: int
    """Of a LoKr: one side of its small matrix where it divides the layer's."""


def convert(
    lora: str | Path,
    to: ToolName,
    out: str | Path | None = None,
    *,
    on_event: OnEvent | None = None,
    **keys: Unpack[ConvertKeys],
) -> "WriteResult":
    """Write a LoRA as another tool reads it, read it back by that tool's rules, and compare every module.

    Args:
        lora: A .safetensors file of any tool, or a hub id.
        to: The tool that shall read it.
        out: The file to write; beside ``lora``, with the tool in its name, when left out.
        on_event: Called with each event.
        keys: See :class:`ConvertKeys`.

    Raises:
        BadLora: The file is not understood, or the tool could not read a part of it.
        BadUsage: An argument means nothing.
    """
    from limner.lora import operations

    home = Path(out) if out else output_path(lora, f"-{to}.safetensors")
    return operations.convert(local(lora), to, home, operations.ConvertOptions(**keys), Reporter(on_event))


def merge(
    loras: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Sequence[float] = (),
    to: ToolName = "diffusers",
    family: str | None = None,
    dtype: str | None = None,
    **keys: Unpack[KindKeys],
) -> "WriteResult":
    """Write the weighted sum of several LoRAs of one base; exact, unless a rule for ranks is given.

    Args:
        loras: Two files or more.
        out: The file to write.
        weights: Strength of each, in order; 1 when left out.
        to: The tool that shall read it.
        family: Of the base, where names alone do not tell.
        dtype: float32, float16 or bfloat16; as the first file when left out.
        keys: See :class:`RankKeys` and :class:`KindKeys`.

    Raises:
        BadLora: They are of different bases, or one is a DoRA.
        BadUsage: An argument means nothing.
    """
    from limner.lora import operations

    options = operations.ConvertOptions(family=family, dtype=dtype, to=to, **_kind(keys))
    paths = [local(lora) for lora in loras]
    return operations.merge(paths, weights, Path(out), options, _rule(keys))


def resize(
    lora: str | Path,
    out: str | Path | None = None,
    *,
    to: ToolName = "diffusers",
    family: str | None = None,
    dtype: str | None = None,
    on_event: OnEvent | None = None,
    **keys: Unpack[KindKeys],
) -> "WriteResult":
    """Write a LoRA at other ranks, and say what each module lost: ``resize("cat.safetensors", rank=8)``.

    Args:
        lora: A .safetensors file of any tool, or a hub id.
        out: The file to write; beside ``lora`` when left out.
        to: The tool that shall read it.
        family: Of the base, where names alone do not tell.
        dtype: float32, float16 or bfloat16; as it was when left out.
        on_event: Called with each event.
        keys: See :class:`RankKeys` and :class:`KindKeys`.

    Raises:
        BadLora: The file is not understood.
        BadUsage: There is no rule for the ranks, or more than one.
    """
    from limner.lora import operations

    rule = _rule(keys)
    if rule is None:
        raise BadUsage("There is no rule for the ranks. Give rank=16, or energy=0.99 ..")
    home = Path(out) if out else output_path(lora, "-resized.safetensors")
    options = operations.ConvertOptions(family=family, dtype=dtype, to=to, **_kind(keys))
    return operations.resize(local(lora), rule, home, options, Reporter(on_event))


def extract(
    base: str | Path,
    finetune: str | Path,
    out: str | Path,
    *,
    rank: int = 32,
    on_event: OnEvent | None = None,
    **keys: Unpack[ExtractKeys],
) -> "WriteResult":
    """Write the difference of a fine-tune to its base as a LoRA, or another kind of adapter.

    Args:
        base: What was fine-tuned: a file, a folder, or a base's name.
        finetune: A file or a folder.
        out: The file to write.
        rank: Of every module.
        on_event: Called with each event.
        keys: See :class:`ExtractKeys`.

    Raises:
        BadBase: They are not two of one family, or nothing differs.
        BadUsage: The rank is none.
    """
    from limner.lora import operations

    options = operations.ConvertOptions(**keys)
    return operations.extract(Path(base), Path(finetune), rank, Path(out), options, Reporter(on_event))


def merge_into_base(
    lora: str | Path, base: str | Path, out: str | Path, *, strength: float = 1.0, family: str | None = None
) -> Path:
    """Write a base with a LoRA merged into it, computed in float64 and rounded once.

    Args:
        lora: A .safetensors file of any tool, or a hub id.
        base: Checkpoint of the base, a file or a folder.
        out: What to write, a file or a folder as the base is.
        strength: Of the LoRA.
        family: Of the base, where names alone do not tell.

    Returns:
        What was written.

    Raises:
        BadLora: The LoRA is of another base.
        BadBase: The base is quantised or cannot be read; ``out`` exists.
    """
    from limner.lora import operations

    options = operations.ConvertOptions(family=family)
    operations.merge_into_base(local(lora), Path(base), Path(out), strength, options)
    return Path(out)


def info(lora: str | Path, *, family: str | None = None) -> "LoraInfo":
    """What is in a LoRA file, and which tools load it.

    Args:
        lora: A .safetensors file of any tool, or a hub id.
        family: Of the base, where names alone do not tell.

    Raises:
        BadLora: The file is unsafe or not understood.
    """
    from limner.lora.inspect import inspect

    return inspect(local(lora), family)


KINDS_OF = tuple(name for name in KindKeys.__annotations__ if name not in RankKeys.__annotations__)


def _kind(keys: KindKeys) -> dict[str, Any]:
    return {name: value for name, value in keys.items() if name in KINDS_OF}


def _rule(keys: KindKeys) -> "RankRule | None":
    """The one rule that was given, if any."""
    from limner.lora.resizing import RankRule

    values = {name: cast("float", value) for name, value in keys.items() if name not in KINDS_OF}
    if len(values) > 1:
        raise BadUsage(f"{' and '.join(values)} are {len(values)} ways to choose ranks. Give one.")
    for name, value in values.items():
        criterion: Any = name.replace("_", "-")
        return RankRule(criterion, float(value))
    return None
