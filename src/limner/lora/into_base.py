"""A LoRA put into the weights of its base, for good: W + weight * dW, computed in float64, rounded once."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from limner.errors import BadBase, BadLora
from limner.files import atomic_folder, require_space
from limner.lora.adapters import Dora, WeightDelta, to_lora
from limner.lora.formats import canonical
from limner.lora.weights import BaseCheckpoint, BaseWeight, data_offsets


def merged_weight(
    weight: Tensor, position: BaseWeight, adapter: Mapping[str, WeightDelta], strength: float
) -> Tensor:
    """A weight of the base with the changes of its modules, in its own dtype.

    A weight that the authors keep as one is changed slice by slice, so any kind of adapter will do.

    Raises:
        BadLora: A change has another shape.
        BadBase: The weight is quantised.
    """
    if weight.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        kind = str(weight.dtype).removeprefix("torch.")
        raise BadBase(
            f"{position.name} is {kind}: a quantised base cannot take a change. Merge into another."
        )
    row, modules = position.match.row, position.modules
    shares = row.shares if position.native else (1,)
    unit = weight.shape[0] // sum(shares)
    blocks = list(weight.double().split([unit * share for share in shares]))
    swap = position.native and row.swaps((weight.shape[0], weight[0].numel()))
    for n, module in enumerate(modules):
        if change := adapter.get(module):
            block = torch.cat(blocks[n].chunk(2)[::-1]) if swap else blocks[n]
            block = _add_delta(module, block, change, strength)
            blocks[n] = torch.cat(block.chunk(2)[::-1]) if swap else block
    result = torch.cat(blocks).to(weight.dtype)
    if not result.isfinite().all():
        raise BadLora(
            f"{position.name} would hold numbers that {weight.dtype} cannot. Merge with a smaller --weight."
        )
    return result


def _add_delta(module: str, weight: Tensor, change: WeightDelta, strength: float) -> Tensor:
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
    checkpoint: BaseCheckpoint,
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
    requests = {(c, canonical(c, m)) for c, adapter in components.items() for m in adapter}
    targets = [
        (weight, {(weight.component, module) for module in weight.modules} & requests)
        for weight in checkpoint.weights
    ]
    if missing := requests - {name for _, names in targets for name in names}:
        component, module = sorted(missing)[0]
        raise BadLora(
            f"{len(missing)} of the LoRA's {len(requests)} modules are not in {base.name}: {component}."
            f"{module} .. Give the base that it was trained on, with its text encoders if it changes them."
        )
    deltas = {
        c: {canonical(c, m): delta for m, delta in adapter.items()} for c, adapter in components.items()
    }
    sources = [base] if base.is_file() else [file for file in base.rglob("*") if file.is_file()]
    require_space(out.parent, sum(file.stat().st_size for file in sources), str(out))
    with atomic_folder(out) as draft:
        shutil.copyfile(base, draft) if base.is_file() else shutil.copytree(base, draft)
        for weight, names in targets:
            if names:
                file = draft if base.is_file() else draft / weight.file.relative_to(base)
                value = merged_weight(checkpoint.read(weight), weight, deltas[weight.component], strength)
                _overwrite(file, weight.name, value.T if weight.transposed else value)
    return sum(bool(names) for _, names in targets)


def _overwrite(file: Path, name: str, value: Tensor) -> None:
    start, table = data_offsets(file)
    dtype, first, last = table[name]
    raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    if len(raw) != last - first:
        raise BadBase(
            f"{name} has {last - first} bytes of {dtype} in {file.name}, not {len(raw)}. Get it again."
        )
    with file.open("rb+") as stream:
        stream.seek(start + first)
        stream.write(raw)
