"""A LoRA put into the weights of its base, for good: W + weight * dW, computed in float64, rounded once.

So a registered base may be another one with a LoRA in it: its folder is made once, in the user's cache.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from limner.errors import BadBase, BadLora
from limner.files import atomic_folder, require_space, user_cache, write_json
from limner.lora import file
from limner.lora.adapters import Dora, WeightDelta, dense
from limner.lora.factors import require_fit
from limner.lora.formats import canonical
from limner.lora.weights import BaseCheckpoint, BaseWeight, data_offsets, open_base
from limner.models.convert import lend
from limner.models.facts import RegisteredBase
from limner.models.registry import EMBEDDED, family_of_base
from limner.models.source import Source, content, locate

VERSION = "1"
"""Of the folders that are made; a change makes them anew."""


def opened(twin: RegisteredBase, raw: Source, tell: Callable[[str], None]) -> Source:
    """The folder of a base that is another one with a LoRA in it; made on the first call.

    It is named by its content. The parts that the LoRA does not change are linked where the disk can.

    Args:
        twin: It names the LoRA.
        raw: The other one, with its weights.
        tell: Hears of what is made.

    Raises:
        BadLora: The LoRA cannot be had, or changes what is not there.
        BadBase: A weight is quantised.
        DiskFull: There is no room for the folder.
    """
    package_file = EMBEDDED / twin.lora
    path = file.weights_file(package_file if package_file.is_file() else file.find(twin.lora))
    parts = [raw.fingerprint(part, "") for part in raw.models]
    facts = [VERSION, content(path), repr(twin.changes), repr(raw.index), repr(raw.facts), *parts]
    key = hashlib.sha256("\n".join([*facts, repr(raw.config("scheduler"))]).encode()).hexdigest()[:16]
    home = user_cache("bases") / f"{twin.name}-{key}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.with_name(f".{home.name}.lock")):
        if not home.is_dir():
            require_space(home.parent, raw.bytes_on_disk or 0, f"{home}, the folder of {twin.name},")
            tell(f"Putting {path.name} into the weights of {raw.name}, once: {home}.")
            with atomic_folder(home) as draft:
                _fill(draft, twin, raw, path)
    return replace(locate(str(home), folders={}), name=twin.name)


def _fill(draft: Path, twin: RegisteredBase, raw: Source, path: Path) -> None:
    """Write the folder of a base with a LoRA in it."""
    family = family_of_base(twin.name)
    assert family
    limner, scheduler = (twin.changes.get(name, {}) for name in ("limner", "scheduler"))
    raw.write_index(draft, raw.index)
    write_json(draft / "limner.json", {**raw.facts, **limner})
    write_json(draft / "scheduler" / "scheduler_config.json", {**raw.config("scheduler"), **scheduler})
    for part in raw.models:
        if part != family.denoiser:
            lend(raw, part, draft / part, allow_links=True)
    folder = raw.root / family.denoiser
    components = file.read(path, family.name).components
    merge_into_base(folder, open_base(folder, family.name), components, draft / family.denoiser)


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
        require_fit(change, weight)
    except BadLora as error:
        raise BadLora(f"{module}: {error}") from error
    return weight + strength * dense(change).reshape(weight.shape)


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
