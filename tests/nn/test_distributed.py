import hashlib
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import accelerate
import pytest
import torch
import torch.distributed as dist
from torch import nn

from forks import forked
from limner.errors import ProcessLost
from limner.nn import distributed
from limner.nn.distributed import Share
from limner.training.checkpoint import LoadedCheckpoint, of_first
from messages import raises
from waiting import LONGEST

HASHES = [hashlib.sha256(bytes([n])).hexdigest() for n in range(64)]


def test_one_process_is_all_there_is():
    assert (distributed.rank(), distributed.world()) == (0, 1)
    share = distributed.share_of(Path("nowhere"))
    assert all(map(share.owns, HASHES)) and distributed.from_first("word") == "word"
    assert distributed.any_rank(True) and not distributed.any_rank(False)
    assert (distributed.all_reduce_min(3), distributed.all_reduce_max(4), distributed.local_world_size()) == (
        3,
        4,
        1,
    )
    distributed.barrier()


def test_nothing_is_started_without_a_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.start()
    assert not dist.is_initialized()


def test_each_machine_fills_a_folder_of_its_own_and_a_common_one_together(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")

    def act() -> None:
        rank = distributed.rank()
        assert distributed.several_machines()
        assert distributed.share_of(tmp_path / "common") == Share(rank, 2)
        assert distributed.share_of(tmp_path / f"machine-{rank}") == Share(0, 1)
        assert distributed.from_first(f"of {rank}") == "of 0"
        checkpoint = LoadedCheckpoint(tmp_path, 3 + rank, {"weights": torch.ones(2)}, {})
        assert of_first(checkpoint).step == 3, "another is in the other machine's folder"  # pyright: ignore
        assert of_first(None if rank else checkpoint).step == 3  # pyright: ignore
        assert of_first(checkpoint if rank else None) is None

    forked(2, tmp_path / "meeting", act)
    assert not [*(tmp_path / "common").iterdir()]


def test_processes_that_do_not_meet_are_one_line(monkeypatch: pytest.MonkeyPatch):
    def alone(*, cpu: bool, timeout: timedelta) -> None:
        assert cpu and timeout == timedelta(minutes=7)
        raise RuntimeError("Gloo connectFullMesh failed with [/pytorch/gloo/context.cc:141] timed out\nmore")

    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerate, "PartialState", alone)
    with raises(ProcessLost):
        distributed.start(7)
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "the loopback leads nowhere"


@pytest.mark.parametrize("count", [2, 3])
def test_shares_cover_all_and_overlap_nowhere(count: int):
    shares = [set(filter(Share(rank, count).owns, HASHES)) for rank in range(count)]
    assert sum(map(len, shares)) == len(HASHES) and set().union(*shares) == set(HASHES)
    assert min(map(len, shares)) > len(HASHES) / count / 2


WORK = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from limner.nn import distributed
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for share in (distributed.sum_gradients, distributed.sum_on_host):
    one, two, idle = (nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (4,), (5,)))
    if rank == 0:  # the other process had no micro-batch that reached `two`
        two.grad = torch.full((4,), 0.1)
    one.grad = torch.full((2, 3), 0.2 + rank)
    loss = share([one, two, idle], torch.tensor(0.5 + rank))
    assert torch.equal(one.grad, torch.full((2, 3), 0.2) + torch.full((2, 3), 1.2))
    assert torch.equal(two.grad, torch.full((4,), 0.1))
    assert loss.item() == 2.0 and idle.grad is None, "else weight decay would move it"
assert distributed.any_rank(rank == 1) and not distributed.any_rank(False)
assert distributed.all_reduce_min(2**40 + rank) == 2**40
assert distributed.all_reduce_max(2**40 + rank) == 2**40 + 1
assert distributed.local_world_size() == 2
assert (distributed.rank(), distributed.world()) == (rank, 2)
distributed.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_sum_what_they_have(tmp_path: Path):
    commands = [[sys.executable, "-c", WORK, str(rank), str(tmp_path / "meet")] for rank in range(2)]
    started = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    for each in started:
        _, told = each.communicate(timeout=LONGEST)
        assert each.returncode == 0, told


def test_a_process_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:31\nmore")

    monkeypatch.setattr(distributed, "world", lambda: 2)
    for name in ("all_reduce", "barrier"):
        monkeypatch.setattr(dist, name, gone)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    parameter = nn.Parameter(torch.ones(2))
    for act in (
        lambda: distributed.any_rank(True),
        distributed.barrier,
        lambda: distributed.sum_gradients([parameter], torch.tensor(1.0)),
    ):
        with raises(ProcessLost) as error:
            act()
        assert "Connection closed by peer" in str(error.value) and "\n" not in str(error.value)


def test_one_of_another_machine_is_named_and_one_that_is_waited_for_too_long_is_told_from_it(monkeypatch):
    entries = [("10.0.0.1", "one"), ("10.0.0.2", "two"), ("10.0.0.2", "two")]
    monkeypatch.setattr(distributed, "gather", lambda _: entries)
    monkeypatch.setattr(distributed, "_places", {})
    distributed._name_places("10.0.0.1")
    with raises(ProcessLost), distributed.reaching_all():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Read error [10.0.0.2]:31: Connection timed out")
    with raises(ProcessLost), distributed.reaching_all():
        raise RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 7200000ms for recv")


def test_the_system_gives_up_connections_to_other_machines_alone(monkeypatch):
    def options() -> list[int]:
        """Of both ends: whether the system asks for an answer, and milliseconds until it gives up."""
        return [
            link.getsockopt(*name)
            for link in (client, accepted)
            for name in (
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        ]

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            before = options()
            numbers = distributed._descriptors()
            assert {client.fileno(), accepted.fileno(), server.fileno()} < {*numbers}
            for number in (client.fileno(), accepted.fileno()):
                distributed._limit_silence(number)
            assert options() == before == [0, 0, 0, 0], "it does not leave this machine"
            monkeypatch.setattr(distributed, "_is_elsewhere", lambda _: True)
            for number in (client.fileno(), accepted.fileno()):
                distributed._limit_silence(number)
            assert options() == [1, 60_000] * 2
            client.sendall(b"word")
            assert accepted.recv(4) == b"word" and client.getblocking()


@pytest.mark.parametrize("ip", ["10.0.0.2", "::ffff:10.0.0.2", "fe80::1"])
def test_an_ip_leads_out_of_this_machine_unless_it_is_the_loopback(ip: str):
    assert distributed._is_elsewhere(ip)
    assert not any(map(distributed._is_elsewhere, ("127.0.0.1", "127.1.2.3", "::ffff:127.0.0.1", "::1")))


def test_one_that_is_gone_while_torch_gathers_is_one_line_and_other_errors_stay():
    with raises(ProcessLost), distributed.passing_together():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:31")
    with pytest.raises(RuntimeError, match="mat1 and mat2"), distributed.passing_together():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(torch.OutOfMemoryError), distributed.passing_together():
        raise torch.OutOfMemoryError("no room for a gloo buffer")
