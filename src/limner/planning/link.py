"""How fast processes gather from each other here: run as one of several, the first of which prints it."""

import sys
import time

import torch
import torch.distributed as torch_distributed

from limner.nn import distributed

SIZE = {"cuda": 2**28, "cpu": 2**24}
"""Bytes that each process gives: about a block of FLUX.1, and of the embedded base many times that."""
ROUNDS = 8


def rate() -> float:
    """Bytes per second that come to this process while all gather what the others have: the slowest one's."""
    distributed.start()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    part = torch.ones(SIZE[kind], dtype=torch.uint8, device=kind)
    whole = torch.empty(SIZE[kind] * distributed.world(), dtype=torch.uint8, device=kind)
    parts = list(whole.chunk(distributed.world()))
    durations = []
    for _ in range(2 + ROUNDS):  # the first ones connect
        distributed.barrier()
        start = time.perf_counter()
        torch_distributed.all_gather(parts, part)
        if kind == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    nanoseconds = distributed.all_reduce_max(round(sorted(durations[2:])[ROUNDS // 2] * 1e9))
    return SIZE[kind] * (distributed.world() - 1) / (nanoseconds / 1e9)


if __name__ == "__main__":
    speed = rate()
    if distributed.rank() == 0:
        sys.stdout.write(f"{speed}\n")
    torch_distributed.destroy_process_group()
