"""Adapter tensors, the files that hold them, and what can be done with such files.

``limner.lora.convert("cat.safetensors", "comfyui")`` is ``limner lora convert`` of the command line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limner.lora.verbs import convert, extract, info, merge, merge_into_base, resize

__all__ = ["convert", "extract", "info", "merge", "merge_into_base", "resize"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("limner.lora.verbs"), name)
    raise AttributeError(f"module 'limner.lora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
