"""The family Qwen-Image 2.1."""
