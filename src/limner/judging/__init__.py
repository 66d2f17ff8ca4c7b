"""The verb ``judge``: which step and strength of a run's LoRA to use, measured on images, with intervals."""
