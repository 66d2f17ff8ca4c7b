"""The family Z-Image."""
