import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed

from limner.nn import processes

HASHES = [hashlib.sha256(bytes([n])).hexdigest() for n in range(64)]


def test_one_process_is_all_there_is():
    assert (processes.rank(), processes.world()) == (0, 1)
    assert all(processes.mine(each) for each in HASHES)
    assert processes.anyone(True) and not processes.anyone(False)
    assert (processes.least(3), processes.most(4), processes.beside()) == (3, 4, 1)
    processes.barrier()


def test_nothing_is_started_without_a_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.start()
    assert not distributed.is_initialized()


@pytest.mark.parametrize("count", [2, 3])
def test_shares_cover_all_and_overlap_nowhere(monkeypatch: pytest.MonkeyPatch, count: int):
    monkeypatch.setattr(processes, "world", lambda: count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append({each for each in HASHES if processes.mine(each)})
    assert sum(map(len, shares)) == len(HASHES) and set().union(*shares) == set(HASHES)
    assert min(map(len, shares)) > len(HASHES) / count / 2


WORK = """
import sys
import torch
from torch import distributed, nn
from limner.nn import processes
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for share in (processes.sum_gradients, processes.sum_on_host):
    one, two, idle = (nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (4,), (5,)))
    if rank == 0:  # the other process had no micro-batch that reached `two`
        two.grad = torch.full((4,), 0.1)
    one.grad = torch.full((2, 3), 0.2 + rank)
    loss = share([one, two, idle], torch.tensor(0.5 + rank))
    assert torch.equal(one.grad, torch.full((2, 3), 0.2) + torch.full((2, 3), 1.2))
    assert torch.equal(two.grad, torch.full((4,), 0.1))
    assert loss.item() == 2.0 and idle.grad is None, "else weight decay would move it"
assert processes.anyone(rank == 1) and not processes.anyone(False)
assert (processes.least(2**40 + rank), processes.most(2**40 + rank)) == (2**40, 2**40 + 1)
assert processes.beside() == 2
assert (processes.rank(), processes.world()) == (rank, 2)
processes.barrier()
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_sum_what_they_have(tmp_path: Path):
    commands = [[sys.executable, "-c", WORK, str(rank), str(tmp_path / "meet")] for rank in range(2)]
    started = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    for each in started:
        _, told = each.communicate(timeout=600)
        assert each.returncode == 0, told
