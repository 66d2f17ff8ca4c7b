"""The studio: Limner in a browser. Pages over files, jobs and verbs in their own processes.

It loads no torch.
"""
