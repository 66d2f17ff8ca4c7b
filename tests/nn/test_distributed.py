import hashlib
import os
import subprocess
import sys
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
    def alone(**_: object) -> None:
        raise RuntimeError("Gloo connectFullMesh failed with [/pytorch/gloo/context.cc:141] timed out\nmore")

    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerate, "PartialState", alone)
    with raises(ProcessLost):
        distributed.start()
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


def test_one_that_is_gone_while_torch_gathers_is_one_line_and_other_errors_stay():
    with raises(ProcessLost), distributed.passing_together():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:31")
    with pytest.raises(RuntimeError, match="mat1 and mat2"), distributed.passing_together():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(torch.OutOfMemoryError), distributed.passing_together():
        raise torch.OutOfMemoryError("no room for a gloo buffer")
