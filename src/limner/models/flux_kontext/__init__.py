"""The family FLUX.1 Kontext."""
