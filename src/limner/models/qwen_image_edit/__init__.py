"""The family Qwen-Image-Edit."""
