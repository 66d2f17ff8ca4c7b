"""Training by the clock: for machines that are lent for minutes."""

import math
import time


class Clock:
    """A budget of seconds, and how much of it is gone."""

    def __init__(self, budget: float) -> None:
        self.budget, self.start = budget, time.monotonic()

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    def share(self) -> float:
        """From 0 to 1 and beyond."""
        return self.seconds() / self.budget

    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.share() >= 1

    def cosine(self, constant_share: float) -> float:
        """A learning rate's multiplier: 1 for the first share ``constant_share``, then a cosine down to 0."""
        late = max(0.0, min(1.0, (self.share() - constant_share) / (1 - constant_share)))
        return 0.5 * (1 + math.cos(math.pi * late))
