"""Puts a plan's choices on a live model and takes them off. They change what is kept, never a gradient."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import BadRecipe
from limner.nn.anatomy import Anatomy, frozen, matching, stand_in
from limner.nn.checkpointing import Checkpoint, Remembered, Run, Tail, placed
from limner.nn.hoist import Hoist
from limner.nn.slab import Host, Mapped, Pinned, Slab, ordinary
from limner.nn.stream import Lane, Ring, Streamed


def equip(  # noqa: PLR0913  a plan has as many choices
    model: nn.Module,
    anatomy: Anatomy,
    *,
    device: torch.device,
    checkpointed: int = 0,
    tail_skip: bool = True,
    keep_attention: bool = False,
    streamed: Sequence[int] = (),
    slots: int = 2,
    mapped: bool = False,
    folder: Path | None = None,
    hoist: bool = False,
) -> "Engine":
    """Have a model computed as a plan says, on a device. Its adapters are attached, its layers stored.

    The model may lie anywhere; only what the plan keeps on the device is brought there.

    Args:
        model: A denoiser.
        anatomy: Where its blocks are.
        device: Where it computes.
        checkpointed: How many blocks, from the first, are computed again for their gradient.
        tail_skip: Whether they then leave out products that no gradient reads.
        keep_attention: Whether they keep what attention gives.
        streamed: Which blocks, counted from 0 in running order, keep their frozen weights on the host.
        slots: Blocks' worth of device memory for those, at least 2.
        mapped: Whether what is kept on the host is kept in files, for want of memory.
        folder: Where these files go, on a disk; none: the system's place for such.
        hoist: Whether modulations are computed once per step, their weights kept on the host.

    Raises:
        BadRecipe: The model cannot be computed so; says why.
        DiskFull: There is no room for the files.
    """
    blocks = list(anatomy.blocks_of(model).values())
    _check(len(blocks), checkpointed, streamed, slots)
    engine = Engine()
    with ExitStack() as unless_done:
        unless_done.callback(engine.close)
        host = _host(engine, device, folder, mapped=mapped)
        if hoist:
            engine.hoist = _hoisted(engine, model, anatomy, host, device)
        if streamed:
            lane = Lane(device, threaded=mapped)
            engine.ring = _ring(engine, [blocks[number] for number in streamed], host, lane, slots)
        engine.settle(model, device)
        if tail_skip and checkpointed:
            for each in matching(model, anatomy.tails).values():
                engine.stand_in(frozen(each), Tail(frozen(each)))
        memory: list[Remembered] = [*placed(model), *([engine.hoist] if engine.hoist else [])]
        for number, block in enumerate(blocks):
            again = partial(Checkpoint, memory=memory, keep_attention=keep_attention)
            place = streamed.index(number) if number in streamed else None
            engine.arrange(block, again if number < checkpointed else None, place)
        unless_done.pop_all()
    return engine


class Engine:
    """What was done to a model. Close it before the model is equipped anew."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self.ring: Ring | None = None
        """The streamed blocks, if there are any."""
        self.hoist: Hoist | None = None
        """The modulations that are computed ahead, if they are."""

    def close(self) -> None:
        """Undo it all. Weights that were streamed or hoisted stay on the host, for the next plan to place."""
        self._undo.close()

    def stand_in(self, module: nn.Module, run: Run) -> None:
        """Have ``run`` called for a module until the engine is closed."""
        self.at_close(stand_in(module, run))

    def at_close(self, undo: Callable[[], None]) -> None:
        """What closing does, last come first."""
        self._undo.callback(undo)

    def settle(self, model: nn.Module, device: torch.device) -> None:
        """Bring everything to the device but what rests on the host."""
        slabs = [*(self.ring.slabs if self.ring else ()), *(self.hoist.slabs if self.hoist else ())]
        resting = {(id(entry.table), entry.name) for slab in slabs for entry in slab.entries}
        moved: dict[int, Tensor] = {}
        for table, name, tensor in _tensors(model):
            if (id(table), name) in resting or tensor.device == device:
                continue
            if tensor.requires_grad:
                tensor.data = tensor.data.to(device)  # the optimizer knows this very parameter
                continue
            there = moved.setdefault(id(tensor), tensor.to(device))
            parameter = isinstance(tensor, nn.Parameter)
            table[name] = nn.Parameter(there, requires_grad=False) if parameter else there

    def arrange(self, block: nn.Module, again: Callable[[Run], Run] | None, place: int | None) -> None:
        """Have a block computed twice, or streamed, or both: what is computed twice is due twice."""
        run: Run = block.forward
        stream = None
        if self.ring is not None and place is not None:
            run = stream = Streamed(run, self.ring, place, checkpointed=again is not None)
        if again is not None:
            run = again(run)
            run = run if stream is None else stream.watch(run)
        if run != block.forward:
            self.stand_in(block, run)


def _tensors(model: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Every parameter and buffer: the table that holds it, its name there, itself."""
    tables = [table for module in model.modules() for table in (module._parameters, module._buffers)]
    return [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]


def _check(blocks: int, checkpointed: int, streamed: Sequence[int], slots: int) -> None:
    if not 0 <= checkpointed <= blocks:
        raise BadRecipe(f"checkpointed is {checkpointed}; this model has {blocks} blocks.")
    if list(streamed) != sorted(set(streamed)) or not all(0 <= number < blocks for number in streamed):
        raise BadRecipe(
            f"streamed is {list(streamed)}; give rising numbers below {blocks}, as the plan does."
        )
    if streamed and slots < 2:
        raise BadRecipe(f"slots is {slots}; streaming needs 2, one to compute with and one to fill.")


def _host(engine: Engine, device: torch.device, folder: Path | None, *, mapped: bool) -> Host:
    if mapped:
        return Mapped(folder)
    if device.type != "cuda":
        return ordinary
    pinned = Pinned()
    engine.at_close(pinned.close)
    return pinned


def _hoisted(
    engine: Engine, model: nn.Module, anatomy: Anatomy, host: Host, device: torch.device
) -> Hoist | None:
    layers = {name: frozen(layer) for name, layer in matching(model, anatomy.modulations).items()}
    if not layers:
        return None
    hoist = Hoist(layers, matching(model, anatomy.conditions), host, device)
    engine.at_close(hoist.close)
    for number, layer in enumerate(layers.values()):
        engine.stand_in(layer, partial(hoist.give, number))
    return hoist


def _ring(engine: Engine, blocks: Sequence[nn.Module], host: Host, lane: Lane, slots: int) -> Ring:
    hoisted = engine.hoist.layers if engine.hoist else ()
    slabs = [Slab(block, host, besides=hoisted) for block in blocks]
    if not all(slab.bytes for slab in slabs):
        raise BadRecipe(
            "A streamed block has no frozen weights, as everything is trained. Set streamed to 0."
        )
    ring = Ring(slabs, lane, min(slots, len(slabs)))
    engine.at_close(ring.close)
    engine.at_close(lane.close)  # first: what is under way must not land in memory that others have by then
    return ring
