"""The family Qwen-Image-Edit-Plus."""
