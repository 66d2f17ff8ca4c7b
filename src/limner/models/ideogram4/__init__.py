"""The family Ideogram 4."""
