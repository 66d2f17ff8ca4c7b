"""The class of a model of transformers that names none: by its config, as ``AutoModel`` chooses it."""

from pathlib import Path
from typing import Any


def class_in(mapping: Any, folder: str | Path) -> Any:
    """The class that a mapping of transformers has for a model's config, as its ``AutoModel`` chooses it.

    Args:
        mapping: ``transformers.MODEL_MAPPING`` and the like.
        folder: In the layout of transformers, or a hub id whose files are here.

    Raises:
        ValueError: The mapping has none.
        OSError: There is no config.
    """
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    classes = mapping.get(type(config), None)
    if classes is None:
        raise ValueError(f"{type(config).__name__} is of no such model")
    if not isinstance(classes, list | tuple):
        return classes
    names = config.architectures or []
    return next((cls for cls in classes if cls and cls.__name__ in names), classes[0])
