"""The family FLUX.2 dev."""
