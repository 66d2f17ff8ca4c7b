"""The family Stable Diffusion 3.5."""
