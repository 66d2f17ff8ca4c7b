"""A family that Limner does not have, in a folder of its own: what ``test_new_family.py`` adds."""
