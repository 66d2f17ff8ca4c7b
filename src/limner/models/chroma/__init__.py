"""The family Chroma."""
