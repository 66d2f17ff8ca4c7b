"""The family FLUX.1."""
