"""The family Stable Diffusion 1.5."""
