"""A LoRA put into the weights of its base, for good: W + weight * dW, computed in float64, rounded once."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from limner.errors import BadBase, BadLora
from limner.files import require_space
from limner.lora.adapters import Dora, WeightDelta, to_lora
from limner.lora.formats import canonical
from limner.lora.weights import BaseCheckpoint, BaseWeight, places


def merged_weight(
    weight: Tensor, place: BaseWeight, adapter: Mapping[str, WeightDelta], strength: float
) -> Tensor:
    """A weight of the base with the changes of its modules, in its own dtype.

    A weight that the authors keep as one is changed slice by slice, so any kind of adapter will do.

    Raises:
        BadLora: A change has another shape.
        BadBase: The weight is quantised.
    """
    if weight.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        kind = str(weight.dtype).removeprefix("torch.")
        raise BadBase(f"{place.name} is {kind}: a quantised base cannot take a change. Bake into another.")
    row, modules = place.place.row, place.place.modules
    if not place.native:
        modules = (modules[place.place.member or 0],)
    shares = row.shares if place.native else (1,)
    unit = weight.shape[0] // sum(shares)
    blocks = list(weight.double().split([unit * share for share in shares]))
    turned = row.swapped and place.native
    for n, module in enumerate(modules):
        if change := adapter.get(canonical(place.component, module)):
            block = torch.cat(blocks[n].chunk(2)[::-1]) if turned else blocks[n]
            block = _moved(module, block, change, strength)
            blocks[n] = torch.cat(block.chunk(2)[::-1]) if turned else block
    made = torch.cat(blocks).to(weight.dtype)
    if not made.isfinite().all():
        raise BadLora(
            f"{place.name} would hold numbers that {weight.dtype} cannot. Bake with a smaller --weight."
        )
    return made


def _moved(module: str, weight: Tensor, change: WeightDelta, strength: float) -> Tensor:
    try:
        if isinstance(change, Dora):
            return weight + strength * (change.over(weight) - weight)
        factors = to_lora(change)
        factors.require_fit(weight)
    except BadLora as error:
        raise BadLora(f"{module}: {error}") from error
    return weight + strength * factors.dense().reshape(weight.shape)


def merge_into_base(
    base: Path,
    opened: BaseCheckpoint,
    components: Mapping[str, Mapping[str, WeightDelta]],
    out: Path,
    strength: float = 1.0,
) -> int:
    """Write the base with the LoRA in it, as a file or a folder as it was; return how many weights changed.

    The files are copied and the changed tensors overwritten in place, so that one tensor is in memory at a
    time and everything else stays as it was, to the byte. ``out`` appears whole.

    Raises:
        BadLora: A module of the LoRA is not in the base.
        BadBase: A weight is quantised; or ``out`` exists.
    """
    if out.exists():
        raise BadBase(f"{out} exists. Name another place with --out.")
    wished = {(c, canonical(c, m)) for c, adapter in components.items() for m in adapter}
    touched = [(weight, _touched(weight) & wished) for weight in opened.weights]
    if lost := wished - {name for _, names in touched for name in names}:
        component, module = sorted(lost)[0]
        raise BadLora(
            f"{len(lost)} of the LoRA's {len(wished)} modules are not in {base.name}: {component}."
            f"{module} .. Give the base that it was trained on, with its text encoders if it changes them."
        )
    named = {
        c: {canonical(c, m): change for m, change in adapter.items()} for c, adapter in components.items()
    }
    sources = [base] if base.is_file() else [file for file in base.rglob("*") if file.is_file()]
    require_space(out.parent, sum(file.stat().st_size for file in sources), str(out))
    draft = out.with_name(f".{out.name}.part")
    _clear(draft)
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base, draft) if base.is_file() else shutil.copytree(base, draft)
        for weight, names in touched:
            if names:
                file = draft if base.is_file() else draft / weight.file.relative_to(base)
                value = merged_weight(opened.read(weight), weight, named[weight.component], strength)
                _overwrite(file, weight.name, value)
        draft.replace(out)
    finally:
        _clear(draft)
    return sum(bool(names) for _, names in touched)


def _touched(weight: BaseWeight) -> set[tuple[str, str]]:
    modules = weight.place.modules
    if not weight.native:
        modules = (modules[weight.place.member or 0],)
    return {(weight.component, canonical(weight.component, module)) for module in modules}


def _overwrite(file: Path, name: str, value: Tensor) -> None:
    start, table = places(file)
    dtype, first, last = table[name]
    raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if len(raw) != last - first:
        raise BadBase(
            f"{name} has {last - first} bytes of {dtype} in {file.name}, not {len(raw)}. Get it again."
        )
    with file.open("rb+") as opened:
        opened.seek(start + first)
        opened.write(raw)


def _clear(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft)
    else:
        draft.unlink(missing_ok=True)
