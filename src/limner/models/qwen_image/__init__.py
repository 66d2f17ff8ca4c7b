"""The family Qwen-Image."""
