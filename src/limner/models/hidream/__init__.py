"""HiDream-I1."""
