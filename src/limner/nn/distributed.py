"""Several processes as one: shares of the work, and sums that do not depend on who did what."""

import atexit
import os
import re
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import torch
import torch.distributed as distributed
from torch import Tensor, nn

from limner.errors import ProcessLost, first_line

T = TypeVar("T")
_lost = threading.Event()
"""Set once another process could not be reached."""


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes work on this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


class Share(NamedTuple):
    """Which of the processes that fill one folder this one is."""

    rank: int
    world: int

    def owns(self, cache_key: str) -> bool:
        """Whether this process does the work under a hash in hex. All agree on it without a word.

        It depends on nothing that changes while others work, such as what is already done.
        """
        return int(cache_key[:8], 16) % self.world == self.rank


def share_of(folder: Path) -> Share:
    """This process's share of what goes into a folder, which all machines see, or each has for itself.

    Where there are several machines, each process leaves a mark there and looks whose marks it sees.
    """
    if not several_machines():
        return Share(rank(), world())
    name = from_first(uuid.uuid4().hex)
    marks = [folder / f".{name}.{number}" for number in range(world())]
    with suppress(OSError):  # a folder that cannot be written to: whoever must write there says so
        folder.mkdir(parents=True, exist_ok=True)
        marks[rank()].touch()
    barrier()
    visible = [number for number, mark in enumerate(marks) if number == rank() or mark.exists()]
    barrier()
    with suppress(OSError):
        marks[rank()].unlink(missing_ok=True)
    return Share(visible.index(rank()), len(visible))


def any_rank(flag: bool) -> bool:  # noqa: FBT001  the flag is all there is
    """Whether ``flag`` is set in any process: how all of them stop at the same step."""
    if world() == 1:
        return flag
    return all_reduce_max(int(flag)) > 0


def all_reduce_max(number: int) -> int:
    """The largest of the numbers that the processes have."""
    return _over_all(number, distributed.ReduceOp.MAX)


def all_reduce_min(number: int) -> int:
    """The smallest of the numbers that the processes have."""
    return _over_all(number, distributed.ReduceOp.MIN)


def _over_all(number: int, op: Any) -> int:
    if world() == 1:
        return number
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    extreme = torch.tensor(number, dtype=torch.int64, device=device)
    with reaching_all():
        distributed.all_reduce(extreme, op)
        return int(extreme)


def gather(entry: T) -> list[T]:
    """What every process has to say, in the order of their ranks; any object that can be pickled."""
    if world() == 1:
        return [entry]
    entries: list[Any] = [None] * world()
    with reaching_all():
        distributed.all_gather_object(entries, entry)
    return entries


def from_first(entry: T) -> T:
    """What the first process has to say, in all of them; any object that can be pickled."""
    if world() == 1:
        return entry
    entries: list[Any] = [entry if rank() == 0 else None]
    with reaching_all():
        distributed.broadcast_object_list(entries, src=0)
    return entries[0]


def several_machines() -> bool:
    """Whether processes of this run are on other machines."""
    return world() > local_world_size()


@contextmanager
def reaching_all() -> Iterator[None]:
    """Say in a line that another process is gone, where torch names sockets and its own source.

    Raises:
        ProcessLost: It is.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _lost.set()
        raise ProcessLost(
            f"Another process of this run has ended or cannot be reached ({first_line(error)}). Its own line "
            "says why; the same command goes on from the newest checkpoint."
        ) from error


@contextmanager
def passing_together() -> Iterator[None]:
    """The same around passes in which torch itself gathers weights: other errors stay what they are.

    Raises:
        ProcessLost: Another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not re.search("gloo|nccl", str(error), re.IGNORECASE):
            raise
        with reaching_all():
            raise


def local_world_size() -> int:
    """How many processes of this run share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world())) if world() > 1 else 1


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        with reaching_all():
            distributed.barrier()


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Sum gradients in place over processes, through one flat buffer, and return the summed loss.

    A process that had no micro-batch this step gives zeros; what has a gradient in none of them stays
    without, as an optimizer leaves such alone. With two processes the sum has two terms, so it equals one
    process that accumulates the same two micro-batches, bit for bit.
    """
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    rest = torch.cat([loss.reshape(1).to(parts[0]), _there(parameters).to(parts[0])])
    flat = torch.cat([part.reshape(-1) for part in parts] + [rest])
    with reaching_all():
        distributed.all_reduce(flat)
    start = 0
    anywhere = flat[-len(parts) :].tolist()
    for parameter, part, has_gradient in zip(parameters, parts, anywhere, strict=True):
        parameter.grad = flat[start : start + part.numel()].view_as(part) if has_gradient else None
        start += part.numel()
    return flat[start]


@torch.no_grad()
def sum_on_host(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """The same for gradients in the host's memory, one by one: a buffer for all would be as large again."""
    group = _hosts()
    rest = torch.cat([loss.reshape(1).to(parameters[0]), _there(parameters).to(parameters[0])])
    with reaching_all():
        distributed.all_reduce(rest, group=group)
    for parameter, has_gradient in zip(parameters, rest[1:].tolist(), strict=True):
        if has_gradient:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            with reaching_all():
                distributed.all_reduce(parameter.grad, group=group)
    return rest[0]


def _there(parameters: Sequence[nn.Parameter]) -> Tensor:
    """1 for each that has a gradient here, else 0."""
    return torch.tensor([parameter.grad is not None for parameter in parameters])


@cache
def _hosts() -> Any:
    """Who sum what is in the host's memory: all, by gloo where the usual way is between GPUs."""
    return distributed.new_group(backend="gloo") if distributed.get_backend() == "nccl" else None


def start() -> None:
    """Join the other processes, when a launcher such as ``accelerate launch`` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        from accelerate import PartialState

        if _is_one_of_several_machines():
            _name_interface()
        try:
            PartialState(cpu=not torch.cuda.is_available())
        except (RuntimeError, ValueError) as error:
            raise ProcessLost(
                f"The {os.environ['WORLD_SIZE']} processes of this run do not meet at "
                f"{os.environ.get('MASTER_ADDR', 'MASTER_ADDR')} ({first_line(error)}). Start as many, see "
                "that each machine reaches that address, and name the network to use with GLOO_SOCKET_IFNAME."
            ) from error
        atexit.register(_leave)


def _leave() -> None:
    """Part from the others at the end of the process, and wait for gloo's threads, which crash it else.

    Not where one of them is gone: there is nobody to part from, and to wait could take half an hour.
    """
    if distributed.is_initialized() and not _lost.is_set():
        distributed.destroy_process_group()


def _is_one_of_several_machines() -> bool:
    """Whether a launcher says so, before the processes have met."""
    return os.environ["WORLD_SIZE"] != os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])


def _name_interface() -> None:
    """Have gloo use the network that leads to the first machine.

    By itself it uses the one that this machine's own name stands for, which is often no other's.
    """
    first = os.environ.get("MASTER_ADDR")
    with suppress(OSError):
        family, kind, *_, place = socket.getaddrinfo(first, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing
            own = probe.getsockname()[0]
        for name, entries in psutil.net_if_addrs().items():
            if own in (entry.address for entry in entries) and not own.startswith("127."):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
