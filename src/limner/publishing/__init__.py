"""A LoRA for others: its files, its model card and its pictures, as a folder, on the hub, and for Civitai."""
