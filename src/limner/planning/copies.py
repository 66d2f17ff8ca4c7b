"""A timeline of what comes to a device over one copy engine: swapped blocks and modulations. No torch."""

from collections.abc import Sequence


class _Copier:
    """One copy engine: blocks come when a buffer is free, a pass's modulations when there is nothing else.

    Args:
        ahead: Seconds that the modulations of each use take to come.
    """

    def __init__(self, ahead: Sequence[float]) -> None:
        self.ahead, self.clock, self.start = ahead, 0.0, 0.0
        self.arrivals: list[float] = []
        """When the modulations of the pass came, as far as they did."""

    def begin(self, now: float) -> None:
        """A pass begins: its modulations may come from now on."""
        self.start, self.arrivals = now, []

    def _next(self) -> float:
        return max(self.clock, self.start) + self.ahead[len(self.arrivals)]

    def _bring(self) -> None:
        self.clock = self._next()
        self.arrivals.append(self.clock)

    def modulations(self, position: int) -> float:
        """When those of a use are there."""
        while len(self.arrivals) <= position:
            self._bring()
        return self.arrivals[position]

    def block(self, room: float, seconds: float) -> float:
        """When a block is there whose buffer is free at ``room``."""
        while len(self.arrivals) < len(self.ahead) and self._next() <= room:
            self._bring()
        self.clock = max(self.clock, room) + seconds
        return self.clock


def waiting_of(
    uses: Sequence[tuple[float, float, int]], swap_buffers: int, pause: float, ahead: Sequence[float] = ()
) -> float:
    """Seconds that a pass waits for copies, from the second pass on, when buffers are full already.

    Args:
        uses: (seconds of computation, seconds of its copy or 0, block) in running order.
        swap_buffers: Buffers. The block that was used longest ago makes room.
        pause: Seconds of computation between two passes, in which copies go on.
        ahead: Seconds that the modulations of each of the first uses take to come.
    """
    now = waiting = 0.0
    copier = _Copier(ahead)
    resident: list[int] = []  # swapped blocks in the buffers, the one used longest ago first
    last_use: dict[int, float] = {}  # of those: when the last computation that read the buffer ended
    for _ in range(2):  # the first pass fills the buffers, only the second one counts
        waiting = 0.0
        copier.begin(now)
        for position, (seconds, copy_seconds, block) in enumerate(uses):
            # A block can begin when its modulations and its weights have come.
            ready = copier.modulations(position) if position < len(ahead) else 0.0
            if copy_seconds:
                if block in last_use:  # in its buffer still, as after the turn from forward to backward
                    resident.remove(block)
                else:  # the copy may start when the oldest buffer is no longer read
                    victim = resident.pop(0) if len(resident) == swap_buffers else None
                    room = 0.0 if victim is None else last_use.pop(victim)
                    ready = max(ready, copier.block(room, copy_seconds))
                resident.append(block)
            waiting += max(0.0, ready - now)
            now = max(now, ready) + seconds
            if copy_seconds:
                last_use[block] = now
        now += pause
    return waiting
