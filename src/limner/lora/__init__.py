"""Adapter tensors, and the files that hold them."""
