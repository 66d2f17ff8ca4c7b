"""Which family a LoRA file is of, where each module belongs, and those that the authors keep as one weight.

The family is told by names, and where several have them by metadata, shapes and depth. Changes of one
weight are put together and taken apart exactly: stacked weights W = [W1; W2] change by stacked dW, and with
dW_i = B_i A_i that is blockdiag(B_1, B_2) cat(A_1, A_2).
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limner.errors import BadLora
from limner.lora.adapters import Dora, Loha, Lokr, LokrRows, WeightDelta, kind
from limner.lora.factors import Factors
from limner.lora.keys import ModuleTensors
from limner.models.key_map import FamilyKeys, KeyEntry, KeyMatch, KeyStyle
from limner.models.registry import lora_keys


def _label(row: KeyEntry) -> str:
    """A row's weight for messages; N stands for numbers."""
    return row.native.replace("{}", "N")


def row_counts(row: KeyEntry, rows: int) -> list[int]:
    """Rows of each module of a fused weight of ``rows`` rows.

    Raises:
        BadLora: They do not divide.
    """
    whole = sum(row.shares)
    if rows % whole:
        raise BadLora(
            f"{_label(row)} has {rows} rows, which do not part as {row.shares}. Name the family: --family."
        )
    return [rows // whole * share for share in row.shares]


def swap_halves(change: WeightDelta) -> WeightDelta:
    """The change of a weight whose halves, top and bottom, stand the other way round.

    Raises:
        BadLora: The change has no halves.
    """
    match change:
        case Factors() if change.up.shape[0] % 2 == 0:
            return Factors(change.down, _swap_rows(change.up))
        case Loha() if change.w1_a.shape[0] % 2 == 0:
            return Loha(_swap_rows(change.w1_a), change.w1_b, _swap_rows(change.w2_a), change.w2_b)
        case Lokr() if change.w1[0].shape[0] % 2 == 0:
            return Lokr((_swap_rows(change.w1[0]), *change.w1[1:]), change.w2)
        case Dora(axis=axis):
            factors = swap_halves(change.factors)
            assert not isinstance(factors, Dora)
            return Dora(factors, change.magnitude if axis == "in" else _swap_rows(change.magnitude), axis)
    raise BadLora(f"A {kind(change)} of {change.shape[0]} rows has no halves to swap. Use --flatten.")


def _swap_rows(rows: Tensor) -> Tensor:
    first, second = rows.chunk(2)
    return torch.cat([second, first])


def fuse(row: KeyEntry, members: Sequence[WeightDelta | None]) -> WeightDelta:
    """The change of the fused weight. A member that is None does not change.

    Raises:
        BadLora: The members are of kinds that have no fused form.
    """
    present = [
        (share, member) for share, member in zip(row.shares, members, strict=True) if member is not None
    ]
    unit = {member.shape[0] / share for share, member in present}
    if len(unit) != 1 or len({member.shape[1] for _, member in present}) != 1:
        raise BadLora(f"The modules of {_label(row)} do not fit on each other. Name the family: --family.")
    height = int(unit.pop())
    blocks = [height * share for share in row.shares]
    if all(isinstance(member, Factors) for _, member in present):
        return _fuse_factors([m if isinstance(m, Factors) else None for m in members], blocks)
    if all(isinstance(member, Loha) for _, member in present):
        return _fuse_lohas([m if isinstance(m, Loha) else None for m in members], blocks)
    wholes = [member.whole for _, member in present if isinstance(member, LokrRows)]
    if len(wholes) == len(members) and all(whole is wholes[0] for whole in wholes):
        return wholes[0]
    kinds = ", ".join(sorted({kind(member) for _, member in present}))
    raise BadLora(
        f"{_label(row)} is one weight there, and {kinds} of its parts cannot be one. Use --flatten."
    )


def _fuse_factors(members: Sequence[Factors | None], blocks: Sequence[int]) -> Factors:
    present = [member for member in members if member is not None]
    first = present[0].down
    if len(present) == len(members) and all(torch.equal(first, member.down) for member in present[1:]):
        return Factors(first.clone(), torch.cat([member.up for member in present]))
    up = _diagonal([None if member is None else member.up.flatten(1) for member in members], blocks)
    down = torch.cat([member.down for member in present])
    return Factors(down, up[..., None, None] if down.dim() == 4 else up)


def _fuse_lohas(members: Sequence[Loha | None], blocks: Sequence[int]) -> Loha:
    present = [member for member in members if member is not None]
    return Loha(
        _diagonal([None if m is None else m.w1_a for m in members], blocks),
        torch.cat([m.w1_b for m in present]),
        _diagonal([None if m is None else m.w2_a for m in members], blocks),
        torch.cat([m.w2_b for m in present]),
    )


def _diagonal(ups: Sequence[Tensor | None], blocks: Sequence[int]) -> Tensor:
    """Each (height, rank) in its own rows and columns; a None leaves its rows zero and has no columns."""
    return torch.block_diag(
        *(torch.zeros(height, 0) if up is None else up for up, height in zip(ups, blocks, strict=True))
    )


def split(row: KeyEntry, change: WeightDelta) -> Sequence[WeightDelta | None]:
    """The changes of the modules of a fused weight; None for one that does not change.

    Raises:
        BadLora: The change does not part.
    """
    blocks = row_counts(row, change.shape[0])
    match change:
        case Factors():
            return _split_factors(change, blocks)
        case Loha():
            halves = zip(change.w1_a.split(blocks), change.w2_a.split(blocks), strict=True)
            return [
                Loha(first.clone(), change.w1_b.clone(), second.clone(), change.w2_b.clone())
                for first, second in halves
            ]
        case Dora(axis="out"):
            if isinstance(change.factors, Factors):
                parts = _split_factors(change.factors, blocks, whole=True)
            else:
                parts = split(row, change.factors)
            return [
                Dora(part, norms.clone(), "out")
                for part, norms in zip(parts, change.magnitude.split(blocks), strict=True)
                if part is not None and not isinstance(part, Dora)
            ]
        case Lokr():
            ends = list(itertools.accumulate(blocks))
            return [LokrRows(change, end - height, end) for end, height in zip(ends, blocks, strict=True)]
    raise BadLora(
        f"{_label(row)} has a DoRA whose norms span q, k and v as one, and here they are apart. "
        "It cannot be read: merge it in the tool that trained it, or use it in ComfyUI."
    )


def _split_factors(change: Factors, blocks: Sequence[int], *, whole: bool = False) -> list[Factors | None]:
    """Each block of rows with the ranks that it uses: what ``join`` put together comes apart as it was."""
    parts: list[Factors | None] = []
    whole = whole or not change.up.any()
    for up in change.up.split(list(blocks)):
        used = up.flatten(1).any(0)
        if whole or used.all():
            parts.append(Factors(change.down.clone(), up.clone()))
        elif used.any():
            parts.append(Factors(change.down[used].clone(), up[:, used].clone()))
        else:
            parts.append(None)
    return parts


PREFIXES = ("transformer.", "unet.", "diffusion_model.", "model.diffusion_model.", "base_model.model.")
NESTED_PREFIXES = ("transformer.base_model.model.", "unet.base_model.model.", "")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")

DENOISER = (
    *(
        KeyStyle(prefix, naming)
        for prefix in (*PREFIXES, *NESTED_PREFIXES)
        for naming in ("diffusers", "native", "processor")
    ),
    *(KeyStyle(prefix, naming, flat=True) for prefix in FLAT_PREFIXES for naming in ("native", "diffusers")),
)
"""How files may spell modules of a denoiser; the first that fits is taken."""


@dataclass(frozen=True)
class Location:
    """Where a module of a file belongs."""

    component: str
    match: KeyMatch
    style: KeyStyle


def locate(
    stem: str,
    names: FamilyKeys,
    denoiser: Iterable[KeyStyle] = DENOISER,
    text: Mapping[str, Iterable[KeyStyle]] | None = None,
) -> Location | None:
    """Where a module's name in a file belongs in a family, if anywhere.

    Args:
        stem: The name without the ending of the tensor.
        names: The family.
        denoiser: Spellings to try for the denoiser.
        text: Spellings to try for each text encoder; those of the family when left out.
    """
    for component, styles in (names.text_styles if text is None else text).items():
        for style in styles:
            if match := _match_text(stem, names, component, style):
                return Location(component, match, style)
    for style in denoiser:
        match = names.table.find(stem, style)
        if match is None and style.naming == "processor":
            match = names.processors.find(stem, replace(style, naming="native"))
        if match:
            return Location(names.component, match, style)
    return None


def _match_text(stem: str, names: FamilyKeys, component: str, style: KeyStyle) -> KeyMatch | None:
    """Since transformers 5 there is no level ``text_model``: with and without it are one."""
    if not stem.startswith(style.prefix) or component not in names.text:
        return None
    table = names.text[component]
    level = "text_model_" if style.flat else "text_model."
    longer = style.prefix + level + stem[len(style.prefix) :]
    return table.find(stem, style) or table.find(longer, style)


COMPONENTS = ("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3")

STEM = re.compile(rf"({'|'.join(COMPONENTS)})\.([A-Za-z0-9_.\-]+)")

BASE_KEYS = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name", "ss_network_module")
"""Entries of the metadata that may name the base."""


def candidates(stems: Sequence[str]) -> list[FamilyKeys]:
    """The families that know every module of a file."""
    return [names for names in lora_keys().values() if all(locate_any(stem, names) for stem in stems)]


def locate_any(stem: str, names: FamilyKeys) -> Location | None:
    """Where a module belongs, however it is spelled; TheLastBen's trainer ends names with an underscore."""
    return locate(stem.rstrip("_"), names)


def detect(parts: Sequence[ModuleTensors], metadata: Mapping[str, str]) -> FamilyKeys | None:
    """The family of a file by its content; None when no table has its names, and they are in diffusers' form.

    Raises:
        BadLora: The names fit no family, or several and nothing tells which.
    """
    families = candidates([part.stem for part in parts])
    if not families:
        if all(STEM.fullmatch(part.stem) for part in parts):
            return None
        counts = {
            n.family: sum(locate_any(p.stem, n) is not None for p in parts) for n in lora_keys().values()
        }
        best = max(counts, key=lambda name: counts[name])
        stray = next(p.stem for p in parts if locate_any(p.stem, lora_keys()[best]) is None)
        raise BadLora(
            f"{len(parts) - counts[best]} of {len(parts)} modules are in no family that Limner knows "
            f"({', '.join(lora_keys())}): {stray} .. Convert it with the tool that wrote it."
        )
    families = _narrow(families, parts, metadata)
    families = [n for n in families if n.taken_for not in {other.family for other in families}]
    if len(families) == 1:
        return families[0]
    if all(STEM.fullmatch(part.stem) for part in parts):
        return None
    labels = " or ".join(n.family for n in families)
    raise BadLora(f"The modules fit {labels}, and nothing tells which. Say it with --family.")


def look_alikes(
    names: FamilyKeys, parts: Sequence[ModuleTensors], metadata: Mapping[str, str]
) -> list[FamilyKeys]:
    """The families that a file may be of as well, which :func:`detect` took for one of ``names``."""
    followers = [other for other in lora_keys().values() if other.taken_for == names.family]
    fitting = [other for other in followers if all(locate_any(part.stem, other) for part in parts)]
    return [other for other in _narrow([names, *fitting], parts, metadata) if other is not names]


def _narrow(
    families: list[FamilyKeys], parts: Sequence[ModuleTensors], metadata: Mapping[str, str]
) -> list[FamilyKeys]:
    """The families that fit by one clue after the other; a clue that fits none is no clue."""
    words = re.split(r"[\s/\\]+", " ".join(metadata.get(key, "") for key in BASE_KEYS).lower())
    for clue in (
        lambda n: any(word.startswith(start) for word in words for start in n.base_names),
        lambda n: all(_has_shape(part, n) for part in parts),
        lambda n: depth(parts) in n.depths if n.depths else True,
        lambda n: _is_kohya_style(parts, n),
    ):
        families = [n for n in families if clue(n)] or families
        if len(families) == 1:
            break
    return families


def _has_shape(part: ModuleTensors, names: FamilyKeys) -> bool:
    """Whether a published model of the family has such a module of that shape; true where none is known."""
    location = locate_any(part.stem, names)
    if location is None or location.component != names.component:
        return True
    shape = part.shape
    if shape is None:
        return True
    match, (rows, columns) = location.match, shape
    modules, heights = match.modules, [rows]
    if match.member is not None:
        modules = (modules[match.member],)
    elif len(modules) > 1:
        if rows % sum(match.row.shares):
            return False
        heights = row_counts(match.row, rows)
    kernels = {bool(names.kernel(module)) for module in modules}
    if part.is_convolution is not None and part.is_convolution not in kernels:
        return False
    return all(
        names.has_shape(module, (height, columns)) for module, height in zip(modules, heights, strict=True)
    )


def depth(parts: Sequence[ModuleTensors]) -> int:
    """One more than the highest number of a double block; single blocks are counted apart."""
    pattern = r"(?<!single[_.])(?:transformer_blocks|double_blocks)[._](\d+)"
    return 1 + max((int(n) for part in parts for n in re.findall(pattern, part.stem)), default=-1)


def _is_kohya_style(parts: Sequence[ModuleTensors], names: FamilyKeys) -> bool:
    """Whether kohya's tools spell the family so: SDXL by the authors' names, SD 1.5 by diffusers'."""
    style = names.tools["kohya"].writes if "kohya" in names.tools else None
    return style is not None and all(names.table.find(part.stem, style) for part in parts)
