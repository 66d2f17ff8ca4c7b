"""Encoders as the plan opens them, whole or layer by layer, and threads that read images ahead of them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from limner.assembly.resolve import Resolved, cache_root
from limner.models.facts import is_tokenizer
from limner.nn.arch import ArchSpec, heaviest
from limner.nn.memory.engine import equip, tile_vae
from limner.nn.memory.plan import Plan

if TYPE_CHECKING:
    from limner.training.rows import Row


def whole(resolved: Resolved, part: str, device: torch.device | None = None) -> Any:
    """A tokenizer or a model, all of it on a device: the run's, if no other is given."""
    device = device or resolved.device
    model = resolved.spec.part(part, device)
    if part == "vae" and resolved.encode_tiled:
        tile_vae(model)
    return model


def moved(values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Values with their tensors on a device."""
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in values.items()}


@contextmanager
def opened(resolved: Resolved, part: str) -> Iterator[Any]:
    """A tokenizer or a model as the plan has it; what it computes is the same to the bit.

    A model that is made of layers may come to the device layer by layer while it works, two of them at a
    time, from the host's memory, or from files where that is short. One that is trained is on the device
    anyway, and is not streamed here.
    """
    if not resolved.encode_streamed or is_tokenizer(part) or part in resolved.first_layers:
        yield whole(resolved, part)
        return
    model = whole(resolved, part, torch.device("cpu"))
    name = heaviest(model)
    if name is None:
        yield model.to(resolved.device)
        return
    layers = len(model.get_submodule(name))
    plan = Plan(swapped_blocks=layers, mmap_weights=resolved.encode_mapped)
    folder = cache_root(resolved.recipe)
    folder.mkdir(parents=True, exist_ok=True)  # nothing may have been kept there yet
    arch = ArchSpec(blocks=(f"{name}.*",))
    engine = equip(model, arch, plan, device=resolved.device, folder=folder)
    try:
        yield model
    finally:
        engine.close()


def uncached(resolved: Resolved, rows: Sequence["Row"]) -> list[dict[str, Tensor]]:
    """The same values computed straight, without a cache: what the cache must equal, bit for bit."""
    models: dict[str, Any] = {}
    out = []
    with torch.no_grad():
        for row in rows:
            values: dict[str, Any] = {name: row.value(name) for name in row.inputs}
            for unit in resolved.spec.cut_of(row.caption).frozen:
                if not all(name in values for name in unit.reads):
                    continue
                for name in unit.uses:
                    if name not in models:
                        models[name] = whole(resolved, name)
                values = moved(values, resolved.device)
                values |= unit.run(models, values)
            out.append({name: values[name].cpu() for name in row.outputs if name in values})
    return out


Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
ROOM = 2 * THREADS
"""Pieces made but not yet asked for, or handed over but not yet done: what this holds in memory."""


class BackgroundPool:
    """A few threads for a ``with`` statement; what fails in one of them is raised in the caller's.

    Args:
        on_result: Called in the caller's thread with the result of each piece handed to :meth:`behind`.
    """

    def __init__(self, on_result: Callable[[Any], None]) -> None:
        self._on_result = on_result
        self._pool = ThreadPoolExecutor(THREADS)
        self._pending: deque[Future[Any]] = deque()

    def __enter__(self) -> "BackgroundPool":
        return self

    def ahead(self, make: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``make`` of each item, in order; the next few are under way while the caller works on one."""
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(make, item))
            if len(waiting) > ROOM:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def behind(self, work: Callable[..., Any], *args: Any) -> None:
        """Have ``work(*args)`` done without waiting for it, unless too much has been handed over already."""
        self._pending.append(self._pool.submit(work, *args))
        while len(self._pending) > ROOM or (self._pending and self._pending[0].done()):
            self._on_result(self._pending.popleft().result())

    def settle(self) -> None:
        """Wait until everything that was handed over is done."""
        while self._pending:
            self._on_result(self._pending.popleft().result())

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Settle; after an error, drop what has not begun."""
        try:
            if kind is None:
                self.settle()
        finally:
            self._pool.shutdown(cancel_futures=True)
