"""What can be done with LoRA files: convert, merge, resize, extract, merge into a base."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from limner.errors import BadLora, BadUsage
from limner.lora import extraction, file, into_base, merging, resizing
from limner.lora.adapters import Dora, WeightDelta, kind
from limner.lora.extraction import Extraction, ExtractLoss
from limner.lora.file import DTYPES, LoraFile
from limner.lora.formats import canonical
from limner.lora.location import locate_base
from limner.lora.metadata import HASH, network_entries, public_entries
from limner.lora.peft_config import HEADER_KEY
from limner.lora.resizing import RankRule, ResizeLoss
from limner.lora.saving import Components, save
from limner.lora.tools import DIFFUSERS, Tool, tool_named, unsupported
from limner.lora.weights import open_base
from limner.reporter import Reporter

STALE = (
    HASH,
    HEADER_KEY,
    "sshs_model_hash",
    "sshs_legacy_hash",
    "ss_new_sd_model_hash",
    "modelspec.thumbnail",
)
"""Entries that no longer hold once the tensors are others."""


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """A file that was written and read back by its tool's rules."""

    path: Path
    tool: str
    family: str | None
    modules: int
    error: float
    """Largest relative error of a module's product with a random vector, as the tool reads the file."""
    left_out: tuple[str, ...] = ()
    """component.module: reason; or what a file or a fine-tune has that a LoRA does not hold."""
    repairs: tuple[str, ...] = ()
    losses: tuple[ResizeLoss | ExtractLoss, ...] = ()
    """What was lost of each module whose rank was made smaller."""


def dtype_named(name: str | None, fallback: torch.dtype) -> torch.dtype:
    """A dtype by its name; ``fallback`` for None.

    Raises:
        BadUsage: Nobody writes LoRAs so.
    """
    dtypes = {text: dtype for dtype, text in DTYPES.items()}
    if name is not None and name not in dtypes:
        raise BadUsage(f"--dtype is {name!r}; choose {', '.join(dtypes)}.")
    return fallback if name is None else dtypes[name]


def require_free(out: Path, *sources: Path) -> None:
    """Raise ``BadUsage`` when ``out`` would overwrite one of the files that are read."""
    if out.exists() and any(out.samefile(source) for source in sources if source.exists()):
        raise BadUsage(f"{out} is one of the files that are read. Name another with --out.")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How a file is converted.

    Attributes:
        family: Where names alone do not tell.
        dtype: Name of the dtype; None keeps that of the file.
        leave_out: Leave out what the tool cannot read, instead of refusing the file.
        flatten: Rank at which LoHa, LoKr and DoRA become plain LoRAs; None leaves them as they are.
        base: Of a DoRA that is flattened.
        to: Name of the tool that ``resize``, ``merge`` and ``extract`` write for.
        keep_metadata: Keep what the file says of its maker's dataset and machine.
    """

    family: str | None = None
    dtype: str | None = None
    leave_out: bool = False
    flatten: int | None = None
    base: Path | None = None
    to: str = DIFFUSERS.name
    keep_metadata: bool = False


def convert(path: Path, to: str, out: Path, options: ConvertOptions, reporter: Reporter) -> WriteResult:
    """Write a LoRA as another tool reads it.

    Raises:
        BadLora: The file is not understood, or the tool could not read a part of it.
        BadUsage: ``to`` or the dtype is unknown, or ``out`` is ``path``.
    """
    tool = tool_named(to)
    require_free(out, path)
    lora = file.read(path, options.family)
    family = lora.family or options.family
    components, losses = _to_plain(lora, options, reporter) if options.flatten else (lora.components, [])
    for line in (*lora.repairs, *lora.unread):
        reporter.line(f"LoRA: {line}")
    metadata = carried_metadata(lora, components, options)
    result = _write(out, components, metadata, lora.dtype, tool, family, options)
    for line in result.left_out:
        reporter.line(f"LoRA: left out {line}")
    return replace(
        result, repairs=lora.repairs, losses=tuple(losses), left_out=(*result.left_out, *lora.unread)
    )


def _write(
    out: Path,
    components: Components,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    tool: Tool,
    family: str | None,
    options: ConvertOptions,
) -> WriteResult:
    """Write what the tool can read, and say what was left out where that was asked for."""
    reasons = unsupported(components, family, tool) if options.leave_out else {}
    remaining = _without(components, reasons)
    if not remaining:
        raise BadLora(f"{tool.name} can read no module of it: {next(iter(reasons.values()))}. Use --flatten.")
    error = save(out, remaining, metadata, dtype_named(options.dtype, dtype), tool, family)
    return WriteResult(
        path=out,
        tool=tool.name,
        family=family,
        modules=sum(map(len, remaining.values())),
        error=error,
        left_out=tuple(f"{c}.{m}: {reason}" for (c, m), reason in reasons.items()),
    )


def _without(
    components: Components, left_out: Mapping[tuple[str, str], str]
) -> dict[str, dict[str, WeightDelta]]:
    remaining = {
        c: {m: change for m, change in adapter.items() if (c, m) not in left_out}
        for c, adapter in components.items()
    }
    return {c: adapter for c, adapter in remaining.items() if adapter}


def _to_plain(
    lora: LoraFile, options: ConvertOptions, reporter: Reporter
) -> tuple[dict[str, dict[str, WeightDelta]], list[ExtractLoss]]:
    """LoHa, LoKr and DoRA as plain LoRAs; plain ones as they are."""
    if options.flatten is not None and options.flatten < 1:
        raise BadUsage(f"--flatten is {options.flatten}; a rank is at least 1.")
    weight_of = _weights(options.base, lora) if options.base else None
    adapters: dict[str, dict[str, WeightDelta]] = {}
    losses = []
    with reporter.progress("Flattening", sum(map(len, lora.components.values()))) as bar:
        for component, adapter in lora.components.items():
            for module, change in adapter.items():
                plain: WeightDelta = change
                if kind(change) != "LoRA":
                    weight = weight_of(component, module) if weight_of and isinstance(change, Dora) else None
                    plain, relative = extraction.flattened(change, weight, options.flatten or 1)
                    losses.append(ExtractLoss(component, module, plain.rank, relative))
                adapters.setdefault(component, {})[module] = plain
                bar.advance()
    return adapters, losses


def _weights(base: Path, lora: LoraFile) -> Callable[[str, str], Tensor]:
    """The weights of a base by module, in diffusers' names; a fused one gives its slice."""
    checkpoint = open_base(base, lora.family)
    index = checkpoint.modules()

    def read(component: str, module: str) -> Tensor:
        weight = index.get((component, canonical(component, module)))
        if weight is None:
            raise BadLora(f"{component}.{module} is not in {base.name}. Give the base it was trained on.")
        return checkpoint.read_modules(weight)[canonical(component, module)]

    return read


def carried_metadata(lora: LoraFile, components: Components, options: ConvertOptions) -> dict[str, str]:
    """The file's own metadata, less what no longer holds and, unless it is asked for, what is private.

    Private is all that tells of the dataset and of the machine: folders, captions, tags, sessions.
    """
    entries = {
        key: value for key, value in lora.metadata.items() if key not in STALE and len(value) < 100_000
    }
    if not options.keep_metadata:
        entries = public_entries(entries)
    network = network_entries(components)
    module = network["ss_network_module"]
    if entries.get("ss_network_module", module) == module:  # its arguments hold for what it has become
        network = {key: network[key] for key in ("ss_network_dim", "ss_network_alpha")}
    return entries | network


def merge(
    paths: Sequence[Path], weights: Sequence[float], out: Path, options: ConvertOptions, rule: RankRule | None
) -> WriteResult:
    """Write the weighted sum of several LoRAs, exactly or resized, in diffusers' form.

    Raises:
        BadLora: They are of different bases, or one is a DoRA.
        BadUsage: There are fewer than two, or as many weights as files are not given.
    """
    if len(paths) < 2:
        raise BadUsage(f"There is {len(paths)} file to merge. Give at least two.")
    if weights and len(weights) != len(paths):
        raise BadUsage(
            f"There are {len(paths)} files and {len(weights)} weights. Give --weight once for each."
        )
    tool = tool_named(options.to)
    require_free(out, *paths)
    loras = [file.read(path, options.family) for path in paths]
    families = {lora.family for lora in loras if lora.family}
    if len(families) > 1:
        raise BadLora(f"The LoRAs are of {' and '.join(sorted(families))}. Merge those of one base.")
    adapters: Components = merging.merge([lora.components for lora in loras], weights or [1.0] * len(loras))
    losses: list[ResizeLoss] = []
    if rule is not None:
        adapters, losses = resizing.resize(adapters, rule)
    family = next(iter(families), options.family)
    metadata = carried_metadata(loras[0], adapters, options)
    metadata["modelspec.merged_from"] = ", ".join(path.name for path in paths)
    unread = tuple(line for lora in loras for line in lora.unread)
    result = _write(out, adapters, metadata, loras[0].dtype, tool, family, options)
    return replace(result, losses=tuple(losses), left_out=(*result.left_out, *unread))


def resize(path: Path, rule: RankRule, out: Path, options: ConvertOptions, reporter: Reporter) -> WriteResult:
    """Write a LoRA at other ranks, in diffusers' form, and say what each module lost.

    Raises:
        BadLora: It is a DoRA.
    """
    tool = tool_named(options.to)
    require_free(out, path)
    lora = file.read(path, options.family)
    with reporter.progress("Resizing", sum(map(len, lora.components.values()))) as bar:
        adapters, losses = resizing.resize(lora.components, rule, bar.advance)
    metadata, family = carried_metadata(lora, adapters, options), lora.family or options.family
    result = _write(out, adapters, metadata, lora.dtype, tool, family, options)
    return replace(result, losses=tuple(losses), left_out=(*result.left_out, *lora.unread))


def extract(
    base: Path, finetune: Path, rank: int, out: Path, options: ConvertOptions, reporter: Reporter
) -> WriteResult:
    """Write the difference of two checkpoints as a LoRA in diffusers' form.

    Raises:
        BadBase: They are not two of one family, or nothing differs.
        BadUsage: The rank is none.
    """
    if rank < 1:
        raise BadUsage(f"--rank is {rank}; it must be at least 1.")
    tool = tool_named(options.to)
    root, base_entry = base, {}
    if not base.exists():  # it is named as recipes name it, and `generate` finds it by that
        root, base_entry = locate_base(str(base), reporter.line).root, {"ss_sd_model_name": str(base)}
    before, after = open_base(root, options.family), open_base(finetune, options.family)
    with reporter.progress("Extracting", len(before.weights)) as bar:
        difference = extraction.extract(before, after, rank, bar.advance)
    for line in (left_out := _not_held(difference)):
        reporter.line(f"LoRA: {line}")
    entries = {"modelspec.title": out.stem, "ss_network_module": "networks.lora", "ss_network_dim": str(rank)}
    family = before.family.family
    result = _write(out, difference.adapters, entries | base_entry, torch.float32, tool, family, options)
    return replace(result, losses=tuple(difference.losses), left_out=(*result.left_out, *left_out))


def _not_held(difference: Extraction) -> tuple[str, ...]:
    lines = []
    if difference.left_out:
        lines.append(
            f"{len(difference.left_out)} tensors differ that a LoRA does not hold (bias, norm, embedding): "
            f"{difference.left_out_share:.1%} of the difference, the first is {difference.left_out[0]}"
        )
    if difference.lone_count:
        lines.append(
            f"{difference.lone_count} biases, norms and others of the base were not compared: the fine-tune "
            "names them otherwise or lacks them"
        )
    return tuple(lines)


def merge_into_base(
    path: Path, base: Path, out: Path, weight: float, options: ConvertOptions
) -> dict[str, object]:
    """Write a base with a LoRA in it.

    Raises:
        BadLora: The LoRA is of another base.
        BadBase: The base is quantised or cannot be read; ``out`` exists.
    """
    checkpoint = open_base(base, options.family)
    lora = file.read(path, options.family or checkpoint.family.family)
    count = into_base.merge_into_base(base, checkpoint, lora.components, out, weight)
    return {"path": out, "weights": count, "family": checkpoint.family.family}
