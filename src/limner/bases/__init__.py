"""The embedded base: how it was made, its weights, its licence notes."""
