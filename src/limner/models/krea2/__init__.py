"""The family Krea 2."""
