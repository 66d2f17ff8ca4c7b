"""Measurements, in folders by what they are of: speed, memory, robustness, quality, and all on a GPU."""
