"""Several processes as one: shares of the work, and sums that do not depend on who did what."""

import atexit
import os
import re
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import torch
import torch.distributed as distributed
from torch import Tensor, nn

from limner.errors import ProcessLost, first_line

T = TypeVar("T")
SILENCE = 60
"""Seconds after which another machine is lost whose system acknowledges nothing any more."""
INTERVAL = 1.0
"""Seconds between two looks for connections that torch has opened meanwhile."""
PATIENCE = 120
"""Minutes that a process waits for the others, where the recipe does not say."""
_lost = threading.Event()
"""Set once another process could not be reached."""
_places: dict[str, str] = {}
"""Address of a machine -> its processes and its name, for people; empty where all are on this one."""


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
        # without torch's own source, and what it guesses
        reason = re.sub(r"^\[[^]]*\.cc:\d+\] |\. This is typically .*", "", first_line(error))
        if re.search("timed out waiting|timeout", reason, re.IGNORECASE):
            reason = f"{reason}; limits.timeout says how long they wait for each other"
        is_silent = re.search("Connection timed out|unreachable|No route to host", reason)
        remark = f"Its machine was silent for {SILENCE} s" if is_silent else "Its own line says why"
        raise ProcessLost(
            f"{_who(reason)} of this run has ended or cannot be reached ({reason}). {remark}; the same "
            "command goes on from the newest checkpoint."
        ) from error


def _who(reason: str) -> str:
    """The process that torch complains of, where it names the address of a machine."""
    names = [name for ip, name in _places.items() if f"[{ip}]" in reason]
    return names[0] if names else "Another process"


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


def start(minutes: int = PATIENCE) -> None:
    """Join the other processes, when a launcher such as ``accelerate launch`` started several.

    Args:
        minutes: How long a process waits for the others, as while one of them samples: ``limits.timeout``.

    Raises:
        ProcessLost: They do not meet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        from accelerate import PartialState

        local_ip = _ip_here() if _is_one_of_several_machines() else ""
        if local_ip:
            _name_interface(local_ip)
        try:
            PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(minutes=minutes))
        except (RuntimeError, ValueError) as error:
            raise ProcessLost(
                f"The {os.environ['WORLD_SIZE']} processes of this run do not meet at "
                f"{os.environ.get('MASTER_ADDR', 'MASTER_ADDR')} ({first_line(error)}). Start as many, see "
                "that each machine reaches that address, and name the network to use with GLOO_SOCKET_IFNAME."
            ) from error
        atexit.register(_leave)
        if several_machines():
            _name_places(local_ip)
            threading.Thread(target=_notice_silence, name="limner-silence", daemon=True).start()


def _name_places(local_ip: str) -> None:
    """Learn which processes are at which address."""
    entries = gather((local_ip, socket.gethostname()))
    for ip, host in entries:
        ranks = [number for number, entry in enumerate(entries) if entry[0] == ip]
        numbers = " or ".join(map(str, ranks))
        _places[ip] = f"Process {numbers} on {host}"


def _notice_silence() -> None:
    """Have the system break connections to machines that went away without a word: power, cable, kernel.

    Torch waits for an answer for as long as processes may wait for each other. The system asks the other one
    whether the connection stands, which its system answers whatever the process is doing.
    """
    while not _lost.is_set():
        for number in _descriptors():
            with suppress(OSError):
                _limit_silence(number)
        time.sleep(INTERVAL)


def _descriptors() -> list[int]:
    """Open files of this process; none where the system does not list them, as Windows."""
    try:
        return [int(path.name) for path in Path("/dev/fd").iterdir()]
    except OSError:
        return []


def _limit_silence(number: int) -> None:
    """Let an open file of this process, if it is a connection to another machine, be silent for so long."""
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        return
    with socket.socket(fileno=os.dup(number)) as link:
        if link.type != socket.SOCK_STREAM or link.family not in (socket.AF_INET, socket.AF_INET6):
            return
        if not _is_elsewhere(link.getpeername()[0]):
            return
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"TCP_KEEPIDLE": SILENCE // 3, "TCP_KEEPINTVL": SILENCE // 6, "TCP_KEEPCNT": 4}
        options["TCP_USER_TIMEOUT"] = SILENCE * 1000  # of what was sent and is not acknowledged
        for name, value in options.items():
            if hasattr(socket, name):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _is_elsewhere(ip: str) -> bool:
    """Whether an address leads out of this machine."""
    return not ip.removeprefix("::ffff:").startswith(("127.", "::1"))


def _leave() -> None:
    """Part from the others at the end of the process, and wait for gloo's threads, which crash it else.

    Not where one of them is gone: there is nobody to part from, and to wait could take half an hour.
    """
    if distributed.is_initialized() and not _lost.is_set():
        distributed.destroy_process_group()


def _is_one_of_several_machines() -> bool:
    """Whether a launcher says so, before the processes have met."""
    return os.environ["WORLD_SIZE"] != os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])


def _ip_here() -> str:
    """This machine's address in the network that leads to the first machine; empty where that is none."""
    with suppress(OSError):
        family, kind, *_, place = socket.getaddrinfo(
            os.environ.get("MASTER_ADDR"), 9, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing
            return probe.getsockname()[0]
    return ""


def _name_interface(local_ip: str) -> None:
    """Have gloo use the network that leads to the first machine.

    By itself it uses the one that this machine's own name stands for, which is often no other's.
    """
    for name, entries in psutil.net_if_addrs().items():
        if local_ip in (entry.address for entry in entries) and not local_ip.startswith("127."):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
