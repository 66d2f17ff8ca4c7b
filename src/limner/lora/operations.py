"""What can be done with LoRA files: convert, merge, resize, extract, merge into a base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from limner.errors import BadLora, BadUsage
from limner.lora import extraction, file, into_base, merging, recasting, resizing
from limner.lora.adapters import WeightDelta
from limner.lora.extraction import Extraction, ExtractLoss, energy_kept
from limner.lora.file import DTYPES, LoraFile
from limner.lora.location import locate_base
from limner.lora.metadata import HASH, network_entries, public_entries
from limner.lora.nearest import KindName, KindRequest
from limner.lora.peft_config import HEADER_KEY
from limner.lora.recasting import Recast
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
    """What was lost of each module whose rank was made smaller, or that became of another kind."""
    energy: float | None = None
    """Share of the squared size of all changes that was kept, by an extraction or another kind, 0 to 1."""


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
        kind: What every module becomes: "lora", "loha", "lokr" or "dora"; None leaves them as they are.
        rank: Of the kind; None: of each module what it is.
        factor: Of a LoKr.
        base: Of a DoRA that is flattened or made.
        to: Name of the tool that ``resize``, ``merge`` and ``extract`` write for.
        keep_metadata: Keep what the file says of its maker's dataset and machine.
    """

    family: str | None = None
    dtype: str | None = None
    leave_out: bool = False
    flatten: int | None = None
    kind: KindName | None = None
    rank: int | None = None
    factor: int | None = None
    base: Path | None = None
    to: str = DIFFUSERS.name
    keep_metadata: bool = False

    def require_one_way(self) -> None:
        """Raise ``BadUsage`` for keys of a kind without a kind, and for two ways to another kind."""
        if self.kind and self.flatten:
            raise BadUsage(f"--flatten {self.flatten} and --kind {self.kind} are two ways. Give one.")
        if self.factor is not None and not self.kind:
            raise BadUsage(f"--factor is {self.factor}, and only a LoKr has one. Say --kind lokr.")


def convert(path: Path, to: str, out: Path, options: ConvertOptions, reporter: Reporter) -> WriteResult:
    """Write a LoRA as another tool reads it.

    Raises:
        BadLora: The file is not understood, or the tool could not read a part of it.
        BadUsage: ``to`` or the dtype is unknown, or ``out`` is ``path``.
    """
    tool = tool_named(to)
    require_free(out, path)
    options.require_one_way()
    if options.rank is not None and not options.kind:
        raise BadUsage(f"--rank is {options.rank} and --kind is left out. Say a kind, or use `lora resize`.")
    lora = file.read(path, options.family)
    family = lora.family or options.family
    components: Components = lora.components
    losses: list[ExtractLoss] = []
    if options.flatten is not None:
        components, losses = recasting.flatten(components, options.flatten, options.base, family, reporter)
    components, new_losses, energy = _of_kind(components, options, tool, family, reporter)
    for line in (*lora.repairs, *lora.unread):
        reporter.line(f"LoRA: {line}")
    metadata = carried_metadata(lora, components, options)
    result = _write(out, components, metadata, lora.dtype, tool, family, options)
    for line in result.left_out:
        reporter.line(f"LoRA: left out {line}")
    left_out = (*result.left_out, *lora.unread)
    all_losses = (*losses, *new_losses)
    return replace(result, repairs=lora.repairs, losses=all_losses, left_out=left_out, energy=energy)


def _of_kind(
    components: Components, options: ConvertOptions, tool: Tool, family: str | None, reporter: Reporter
) -> tuple[Components, list[ExtractLoss], float | None]:
    """The modules in the kind that is asked for, what was lost, and the share of the energy that is kept."""
    if options.kind is None:
        return components, [], None
    request = Recast(kind=options.kind, rank=options.rank, factor=options.factor, norms=tool.norms)
    adapters, losses = recasting.recast(components, request, options.base, family, reporter)
    return adapters, losses, energy_kept(losses)


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
    paths: Sequence[Path],
    weights: Sequence[float],
    out: Path,
    options: ConvertOptions,
    rule: RankRule | None,
    reporter: Reporter | None = None,
) -> WriteResult:
    """Write the weighted sum of several LoRAs, exactly, or resized, or in another kind.

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
    options.require_one_way()
    loras = [file.read(path, options.family) for path in paths]
    families = {lora.family for lora in loras if lora.family}
    if len(families) > 1:
        raise BadLora(f"The LoRAs are of {' and '.join(sorted(families))}. Merge those of one base.")
    adapters: Components = merging.merge([lora.components for lora in loras], weights or [1.0] * len(loras))
    losses: list[ResizeLoss] = []
    if rule is not None:
        adapters, losses = resizing.resize(adapters, rule)
    family, no_rank = next(iter(families), options.family), replace(options, rank=None)
    adapters, new_losses, energy = _of_kind(adapters, no_rank, tool, family, reporter or Reporter())
    metadata = carried_metadata(loras[0], adapters, options)
    metadata["modelspec.merged_from"] = ", ".join(path.name for path in paths)
    unread = tuple(line for lora in loras for line in lora.unread)
    result = _write(out, adapters, metadata, loras[0].dtype, tool, family, options)
    all_losses, left_out = (*losses, *new_losses), (*result.left_out, *unread)
    return replace(result, losses=all_losses, left_out=left_out, energy=energy)


def resize(path: Path, rule: RankRule, out: Path, options: ConvertOptions, reporter: Reporter) -> WriteResult:
    """Write a LoRA at other ranks, and say what each module lost; of a DoRA, of its direction.

    Raises:
        BadLora: The file is not understood.
    """
    tool = tool_named(options.to)
    require_free(out, path)
    options.require_one_way()
    lora = file.read(path, options.family)
    with reporter.progress("Resizing", sum(map(len, lora.components.values()))) as bar:
        smaller, losses = resizing.resize(lora.components, rule, bar.advance)
    family, no_rank = lora.family or options.family, replace(options, rank=None)
    adapters, new_losses, energy = _of_kind(smaller, no_rank, tool, family, reporter)
    metadata = carried_metadata(lora, adapters, options)
    result = _write(out, adapters, metadata, lora.dtype, tool, family, options)
    all_losses, left_out = (*losses, *new_losses), (*result.left_out, *lora.unread)
    return replace(result, losses=all_losses, left_out=left_out, energy=energy)


def extract(
    base: Path, finetune: Path, rank: int, out: Path, options: ConvertOptions, reporter: Reporter
) -> WriteResult:
    """Write the difference of two checkpoints as a LoRA, or as an adapter of another kind.

    Raises:
        BadBase: They are not two of one family, or nothing differs.
        BadUsage: The rank is none, or the kind is unknown.
    """
    options.require_one_way()
    tool = tool_named(options.to)
    request = KindRequest(kind=options.kind or "lora", rank=rank, factor=options.factor, norms=tool.norms)
    root, base_entry = base, {}
    if not base.exists():  # it is named as recipes name it, and `generate` finds it by that
        root, base_entry = locate_base(str(base), reporter.line).root, {"ss_sd_model_name": str(base)}
    before, after = open_base(root, options.family), open_base(finetune, options.family)
    with reporter.progress("Extracting", len(before.weights)) as bar:
        difference = extraction.extract(before, after, request, bar.advance)
    for line in (left_out := _not_held(difference)):
        reporter.line(f"LoRA: {line}")
    entries = {"modelspec.title": out.stem} | network_entries(difference.adapters)
    family = before.family.family
    result = _write(out, difference.adapters, entries | base_entry, torch.float32, tool, family, options)
    losses, left_out = tuple(difference.losses), (*result.left_out, *left_out)
    return replace(result, losses=losses, left_out=left_out, energy=energy_kept(losses))


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
