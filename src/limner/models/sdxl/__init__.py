"""The family SDXL."""
