"""The memory engine: gradient checkpointing, block swap, host buffers, precomputed modulations, tiling."""
