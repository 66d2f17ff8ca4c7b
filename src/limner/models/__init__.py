"""The models that Limner trains: a folder for each family, and what families share.

A family's folder holds all that is known of it: ``facts.py`` (names, licences, sizes, preset), ``keys.py``
and ``lora.py`` (what its modules are called in files), ``configs/``, and ``family.py`` (its computation).
"""
