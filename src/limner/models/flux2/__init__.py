"""The family FLUX.2 klein."""
