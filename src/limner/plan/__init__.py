"""Memory and time before a run starts: what a step needs, how else it can be computed, what to choose."""
