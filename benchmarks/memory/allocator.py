"""CUDA's caching allocator, replayed: what it reserves for what lives when. Source: torch, ``c10/cuda``."""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

from limner.planning.tracker import Event

MIB = 2**20
GRANULE = 512
SMALL = MIB
"""Requests up to this come from small segments."""
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB
LARGE = 10 * MIB
"""Requests from this on get a segment of their own size, in steps of ``STEP``."""
STEP = 2 * MIB
DISTANCE = 1 << 50
"""Addresses between two segments, so that their blocks never touch."""


@dataclass(frozen=True)
class Reserved:
    """Bytes at their highest; ``allocated`` in whole blocks, as ``torch.cuda.memory_allocated`` counts."""

    allocated: int
    reserved: int
    retries: int = 0
    """How often everything that was cached had to be given back to go on."""


class Full(Exception):
    """The replay does not fit into the capacity."""


@dataclass(eq=False)
class _Block:
    size: int
    address: int
    pool: "_Pool"
    free: bool = False
    before: "_Block | None" = None
    after: "_Block | None" = None


class _Pool:
    """Free blocks of one kind of segment, the best fit first."""

    def __init__(self, *, small: bool) -> None:
        self.small = small
        self.order: list[tuple[int, int]] = []
        self.blocks: dict[int, _Block] = {}
        self.last: _Block | None = None
        """The block at the end of the segment that grows, when segments are expandable."""

    def put(self, block: _Block) -> None:
        block.free = True
        bisect.insort(self.order, (block.size, block.address))
        self.blocks[block.address] = block

    def take(self, block: _Block) -> _Block:
        del self.order[bisect.bisect_left(self.order, (block.size, block.address))]
        block.free = False
        return self.blocks.pop(block.address)

    def fit(self, size: int) -> _Block | None:
        place = bisect.bisect_left(self.order, (size, -1))
        return self.blocks[self.order[place][1]] if place < len(self.order) else None


class Allocator:
    """One device's allocator.

    Args:
        expandable: Segments grow page by page (``expandable_segments``), instead of being many.
        capacity: Bytes that it may reserve; None: any number.
    """

    def __init__(self, *, expandable: bool = False, capacity: int | None = None) -> None:
        self.expandable, self.capacity = expandable, capacity
        self.allocated = self.reserved = self.most_allocated = self.most_reserved = self.retries = 0
        self._pools = {small: _Pool(small=small) for small in (True, False)}
        self._held: dict[int, _Block] = {}
        self._segments = 0

    def allocate(self, key: int, size: int) -> None:
        """Give a block to ``key``.

        Raises:
            Full: The capacity is used up, even after everything cached has been given back.
        """
        size = max(GRANULE, -(-size // GRANULE) * GRANULE)
        pool = self._pools[size <= SMALL]
        placement = pool.fit(size)
        block = pool.take(placement) if placement else self._segment(pool, size)
        rest_size = block.size - size
        fine = pool.small or self.expandable
        if rest_size >= (GRANULE if fine else SMALL + 1):
            self._split(block, size)
        block.free = False
        self._held[key] = block
        self.allocated += block.size
        self.most_allocated = max(self.most_allocated, self.allocated)

    def release(self, key: int) -> None:
        """Take the block of ``key`` back and join it with its free neighbours."""
        block = self._held.pop(key)
        self.allocated -= block.size
        for other in (block.before, block.after):
            if other is not None and other.free:
                block = self._join(block, other)
        block.pool.put(block)

    def _split(self, block: _Block, size: int) -> None:
        rest = _Block(block.size - size, block.address + size, block.pool, before=block, after=block.after)
        if rest.after is not None:
            rest.after.before = rest
        block.size, block.after = size, rest
        if block.pool.last is block:
            block.pool.last = rest
        block.pool.put(rest)

    def _join(self, block: _Block, other: _Block) -> _Block:
        """One block of two neighbours, the second of which is free."""
        block.pool.take(other)
        first, second = sorted((block, other), key=lambda either: either.address)
        first.size, first.after = first.size + second.size, second.after
        if first.after is not None:
            first.after.before = first
        if block.pool.last is second:
            block.pool.last = first
        return first

    def _segment(self, pool: _Pool, size: int) -> _Block:
        """A block of new memory, at least ``size`` long."""
        if self.expandable:
            return self._grow(pool, size)
        large = LARGE_SEGMENT if size < LARGE else -(-size // STEP) * STEP
        room = SMALL_SEGMENT if pool.small else large
        self._reserve(room)
        self._segments += 1
        return _Block(room, self._segments * DISTANCE, pool)

    def _grow(self, pool: _Pool, size: int) -> _Block:
        page = SMALL_SEGMENT if pool.small else LARGE_SEGMENT
        last = pool.last
        have = last.size if last is not None and last.free else 0
        growth = -(-(size - have) // page) * page
        self._reserve(growth)
        if last is not None and last.free:
            pool.take(last)
            last.size += growth
            return last
        address = DISTANCE if pool.small else 2 * DISTANCE
        block = _Block(growth, address if last is None else last.address + last.size, pool, before=last)
        if last is not None:
            last.after = block
        pool.last = block
        return block

    def _reserve(self, size: int) -> None:
        if self.capacity is not None and self.reserved + size > self.capacity:
            self._give_back()
            self.retries += 1
            if self.reserved + size > self.capacity:
                raise Full(f"{self.reserved + size} bytes are wanted of {self.capacity}.")
        self.reserved += size
        self.most_reserved = max(self.most_reserved, self.reserved)

    def _give_back(self) -> None:
        """Return whole segments that are free; of expandable ones nothing, which is the worst case."""
        for pool in () if self.expandable else self._pools.values():
            for block in list(pool.blocks.values()):
                if block.before is None and block.after is None:
                    self.reserved -= pool.take(block).size


def replay(events: Iterable[Event], *, expandable: bool = False, capacity: int | None = None) -> Reserved:
    """What the allocator reserves for a history of births and deaths.

    Raises:
        Full: It does not fit into ``capacity``.
    """
    allocator = Allocator(expandable=expandable, capacity=capacity)
    addresses: set[int] = set()
    for key, size in events:
        if size > 0:
            allocator.allocate(key, size)
            addresses.add(key)
        elif key in addresses:
            allocator.release(key)
    return Reserved(allocator.most_allocated, allocator.most_reserved, allocator.retries)


def least_capacity(events: Iterable[Event], *, expandable: bool = False) -> int:
    """The smallest capacity, to 16 MiB, at which a history still fits by giving back what is cached."""
    history = list(events)
    free = replay(history, expandable=expandable)
    low, high = free.allocated, free.reserved
    while high - low > 16 * MIB:
        middle = (low + high) // 2
        try:
            replay(history, expandable=expandable, capacity=middle)
            high = middle
        except Full:
            low = middle
    return high
