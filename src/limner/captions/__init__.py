"""Captions: who is asked, what they are asked, and what is taken for an answer."""
