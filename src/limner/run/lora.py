"""What can be done with LoRA files: convert, merge, resize, extract, bake. Files in, files out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limner.errors import BadLora, BadUsage
from limner.lora import diffusers_loader, file
from limner.lora import extract as extracting
from limner.lora import merge as merging
from limner.lora import merge_into_base as baking
from limner.lora import resize as resizing
from limner.lora.adapters import Dora, WeightDelta, kind
from limner.lora.compare import require_equal
from limner.lora.extract import ExtractLoss
from limner.lora.file import DTYPES, LoraFile
from limner.lora.keys import SCALES
from limner.lora.metadata import HASH
from limner.lora.resize import RankRule, ResizeLoss
from limner.lora.tables import family_keys
from limner.lora.tools import DIFFUSERS, Tool, decode_as, tool_named, unsupported
from limner.lora.weights import open_base
from limner.run.say import Say
from limner.run.setting import source_of

Components = Mapping[str, Mapping[str, WeightDelta]]


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
    """component.module: reason."""
    repaired: tuple[str, ...] = ()
    losses: tuple[ResizeLoss | ExtractLoss, ...] = ()
    """What was lost of each module whose rank was made smaller."""


def dtype_named(name: str | None, fallback: torch.dtype) -> torch.dtype:
    """A dtype by its name; ``fallback`` for None.

    Raises:
        BadUsage: Nobody writes LoRAs so.
    """
    known = {text: dtype for dtype, text in DTYPES.items()}
    if name is not None and name not in known:
        raise BadUsage(f"--dtype is {name!r}; choose {', '.join(known)}.")
    return fallback if name is None else known[name]


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
    """

    family: str | None = None
    dtype: str | None = None
    leave_out: bool = False
    flatten: int | None = None
    base: Path | None = None


def convert(path: Path, to: str, out: Path, wish: ConvertOptions, say: Say) -> WriteResult:
    """Write a LoRA as another tool reads it.

    Raises:
        BadLora: The file is not understood, or the tool could not read a part of it.
        BadUsage: ``to`` or the dtype is unknown, or ``out`` is ``path``.
    """
    tool = tool_named(to)
    require_free(out, path)
    held = file.read(path, wish.family)
    family = held.family or wish.family
    components, losses = _plainly(held, wish, say) if wish.flatten else (held.components, [])
    left_out = unsupported(components, family, tool) if wish.leave_out else {}
    components = _without(components, left_out)
    if not components:
        raise BadLora(
            f"{to} can read no module of {path.name}: {next(iter(left_out.values()))}. Use --flatten."
        )
    for line in (*held.repaired, *(f"left out {c}.{m}: {why}" for (c, m), why in left_out.items())):
        say.line(f"LoRA: {line}")
    error = save(
        out, components, described(held, components), dtype_named(wish.dtype, held.dtype), tool, family
    )
    return WriteResult(
        path=out,
        tool=to,
        family=family,
        modules=sum(map(len, components.values())),
        error=error,
        left_out=tuple(f"{c}.{m}: {why}" for (c, m), why in left_out.items()),
        repaired=held.repaired,
        losses=tuple(losses),
    )


def _without(
    components: Components, left_out: Mapping[tuple[str, str], str]
) -> dict[str, dict[str, WeightDelta]]:
    kept = {
        c: {m: change for m, change in adapter.items() if (c, m) not in left_out}
        for c, adapter in components.items()
    }
    return {c: adapter for c, adapter in kept.items() if adapter}


def _plainly(
    held: LoraFile, wish: ConvertOptions, say: Say
) -> tuple[dict[str, dict[str, WeightDelta]], list[ExtractLoss]]:
    """LoHa, LoKr and DoRA as plain LoRAs; plain ones as they are."""
    if wish.flatten is not None and wish.flatten < 1:
        raise BadUsage(f"--flatten is {wish.flatten}; a rank is at least 1.")
    weights = _weights(wish.base, held) if wish.base else None
    made: dict[str, dict[str, WeightDelta]] = {}
    losses = []
    with say.steps("Flattening", sum(map(len, held.components.values()))) as bar:
        for component, adapter in held.components.items():
            for module, change in adapter.items():
                own: WeightDelta = change
                if kind(change) != "LoRA":
                    weight = weights(component, module) if weights and isinstance(change, Dora) else None
                    own, relative = extracting.flattened(change, weight, wish.flatten or 1)
                    losses.append(ExtractLoss(component, module, own.rank, relative))
                made.setdefault(component, {})[module] = own
                bar.advance()
    return made, losses


def _weights(base: Path, held: LoraFile) -> Callable[[str, str], Tensor]:
    """The weights of a base by module, in diffusers' names; a fused one gives its slice."""
    opened = open_base(base, held.family)
    found = {
        (weight.component, module): (weight, n)
        for weight in opened.weights
        for n, module in enumerate(weight.place.modules)
        if weight.native or n == (weight.place.member or 0)
    }

    def read(component: str, module: str) -> Tensor:
        if (component, module) not in found:
            raise BadLora(f"{component}.{module} is not in {base.name}. Give the base it was trained on.")
        weight, n = found[component, module]
        whole = opened.read(weight)
        if not weight.native:
            return whole
        unit = whole.shape[0] // sum(weight.place.row.shares)
        return whole.split([unit * share for share in weight.place.row.shares])[n]

    return read


def described(held: LoraFile, components: Components) -> dict[str, str]:
    """The file's own metadata, less what no longer holds: hashes, settings, ranks."""
    gone = (
        HASH,
        SCALES,
        "sshs_model_hash",
        "sshs_legacy_hash",
        "ss_new_sd_model_hash",
        "modelspec.thumbnail",
    )
    kept = {key: value for key, value in held.metadata.items() if key not in gone and len(value) < 100_000}
    ranks = {change.rank for adapter in components.values() for change in adapter.values()}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return kept | {"ss_network_dim": rank, "ss_network_alpha": rank}


def save(
    out: Path,
    components: Components,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    tool: Tool = DIFFUSERS,
    family: str | None = None,
) -> float:
    """Write a file for a tool and read it back by that tool's rules; the largest error of a module.

    Raises:
        BadLora: The tool would read other modules or other numbers; nothing is left at ``out``.
    """
    draft = out.with_name(f".{out.stem}.draft.safetensors")
    try:
        file.write(draft, components, metadata, dtype, tool=tool, family=family)
        error = reread(draft, components, tool, family, dtype)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return error


def reread(
    path: Path, components: Components, tool: Tool, family: str | None, dtype: torch.dtype = torch.float32
) -> float:
    """Read a file by a tool's own rules and compare, key by key; the largest error of a module.

    For diffusers its own reader is called; for the others the rules are tables: ``limner.lora.tools``.

    Raises:
        BadLora: The tool passes over a part, or reads other numbers.
    """
    if family is None:
        return require_equal(path.name, tool.name, file.read(path).components, components, dtype)
    names = family_keys(family)
    plain = all(kind(change) == "LoRA" for adapter in components.values() for change in adapter.values())
    if tool is DIFFUSERS and plain:
        return diffusers_loader.verify(path, components, names.pipelines[0]).error
    seen = decode_as(file.tensors(path), names.family, tool)
    if seen.skipped:
        raise BadLora(
            f"{path.name}: {tool.name} would pass over {len(seen.skipped)} modules, first {seen.skipped[0]}."
        )
    return require_equal(path.name, tool.name, seen.components, components, dtype)


def merge(
    paths: Sequence[Path], weights: Sequence[float], out: Path, wish: ConvertOptions, rule: RankRule | None
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
    require_free(out, *paths)
    held = [file.read(path, wish.family) for path in paths]
    families = {each.family for each in held if each.family}
    if len(families) > 1:
        raise BadLora(f"The LoRAs are of {' and '.join(sorted(families))}. Merge those of one base.")
    made: Components = merging.merge([each.components for each in held], weights or [1.0] * len(held))
    losses: list[ResizeLoss] = []
    if rule is not None:
        made, losses = resizing.resize(made, rule)
    family = next(iter(families), wish.family)
    origin = described(held[0], made) | {"modelspec.merged_from": ", ".join(path.name for path in paths)}
    error = save(out, made, origin, dtype_named(wish.dtype, held[0].dtype), family=family)
    count = sum(map(len, made.values()))
    return WriteResult(
        path=out, tool="diffusers", family=family, modules=count, error=error, losses=tuple(losses)
    )


def resize(path: Path, rule: RankRule, out: Path, wish: ConvertOptions, say: Say) -> WriteResult:
    """Write a LoRA at other ranks, in diffusers' form, and say what each module lost.

    Raises:
        BadLora: It is a DoRA.
    """
    require_free(out, path)
    held = file.read(path, wish.family)
    with say.steps("Resizing", sum(map(len, held.components.values()))) as bar:
        made, losses = resizing.resize(held.components, rule, bar.advance)
    dtype = dtype_named(wish.dtype, held.dtype)
    family = held.family or wish.family
    error = save(out, made, described(held, made), dtype, family=family)
    return WriteResult(
        path=out, tool="diffusers", family=family, modules=len(losses), error=error, losses=tuple(losses)
    )


def extract(base: Path, tuned: Path, rank: int, out: Path, wish: ConvertOptions, say: Say) -> WriteResult:
    """Write the difference of two checkpoints as a LoRA in diffusers' form.

    Raises:
        BadBase: They are not two of one family, or nothing differs.
        BadUsage: The rank is none.
    """
    if rank < 1:
        raise BadUsage(f"--rank is {rank}; it must be at least 1.")
    root, named = base, {}
    if not base.exists():  # it is named as recipes name it, and `generate` finds it by that
        root, named = source_of(str(base), say.line).root, {"ss_sd_model_name": str(base)}
    before, after = open_base(root, wish.family), open_base(tuned, wish.family)
    with say.steps("Extracting", len(before.weights)) as bar:
        made, losses = extracting.extract(before, after, rank, bar.advance)
    family = before.family.family
    about = {"modelspec.title": out.stem, "ss_network_module": "networks.lora", "ss_network_dim": str(rank)}
    error = save(out, made, about | named, dtype_named(wish.dtype, torch.float32), family=family)
    return WriteResult(
        path=out, tool="diffusers", family=family, modules=len(losses), error=error, losses=tuple(losses)
    )


def merge_into_base(
    path: Path, base: Path, out: Path, weight: float, wish: ConvertOptions
) -> dict[str, object]:
    """Write a base with a LoRA in it.

    Raises:
        BadLora: The LoRA is of another base.
        BadBase: The base is quantised or cannot be read; ``out`` exists.
    """
    opened = open_base(base, wish.family)
    held = file.read(path, wish.family or opened.family.family)
    count = baking.merge_into_base(base, opened, held.components, out, weight)
    return {"path": out, "weights": count, "family": opened.family.family}
