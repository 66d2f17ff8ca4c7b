"""Captions: who is asked, what they are asked, what is taken for an answer, and the verb ``caption``."""
