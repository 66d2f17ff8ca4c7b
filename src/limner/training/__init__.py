"""The trainer: the cache, the loop, checkpoints, samples, validation, export."""
