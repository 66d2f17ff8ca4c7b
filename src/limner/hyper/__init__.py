"""Models that write LoRAs: from pictures to factors in one pass."""
