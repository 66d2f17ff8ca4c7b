import sys
from pathlib import Path

import pytest
import torch

from limner.nn.memory import malloc


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="says RssAnon")
def test_what_was_freed_between_things_that_stay_goes_back_to_the_system():
    if malloc._trim() is None:
        pytest.skip("another C library than glibc")
    torch.empty(2**24, dtype=torch.uint8)  # the C library expects such blocks from now on
    some, stay = [], []
    for _ in range(32):
        some.append(torch.ones(2**20, dtype=torch.float32))
        stay.append(torch.ones(2**10))
    full = resident()
    some.clear()
    malloc.give_back()
    assert resident() < full - 100 * 2**20
    assert all(each.sum() == 2**10 for each in stay)


def test_where_it_cannot_be_had_nothing_happens(monkeypatch):
    monkeypatch.setattr(malloc, "_trim", lambda: None)
    assert malloc.give_back() is False
