"""Names and shapes of a file as one number, as DiffSynth-Studio recognises files that are published."""

import hashlib
from collections.abc import Mapping


def hash_of_layout(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """MD5 over the sorted names, each with its shape and without."""
    words = [
        word
        for name, shape in shapes.items()
        for word in (f"{name}:{'_'.join(str(size) for size in shape)}", name)
    ]
    return hashlib.md5(",".join(sorted(words)).encode(), usedforsecurity=False).hexdigest()
