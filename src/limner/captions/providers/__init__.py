"""Who can be asked for captions: one small file each. A file names ``provider(Options) -> Provider``.

Which there are is in ``captions.catalog``. A provider's packages are imported in its file, when it is chosen.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from limner.captions.catalog import provider_record
from limner.captions.client import Provider
from limner.errors import BadProvider


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person says about a provider. What is None is its own choice."""

    name: str
    model: str | None = None
    url: str | None = None
    """Address of a server, such as http://localhost:8000/v1."""
    key_env: str | None = None
    """Environment variable that holds the key. Keys are never options: the system shows those to all."""
    timeout: float = 120.0
    """Seconds for an answer."""
    stream: bool = False
    """Whether answers are read as they are written."""
    sends: bool = True
    """Whether anything will be sent. Where not, as only the price is asked, no key is needed."""
    device: str = "auto"
    """Of local models: auto, cpu, cuda, mps."""


def provider(options: Options) -> Provider:
    """Make a provider ready to be asked.

    Raises:
        BadUsage: There is none of that name, or the options do not fit it.
        BadProvider: Its package, key or model is missing.
    """
    return importlib.import_module(provider_record(options.name).module, __name__).provider(options)


def package(module: str, user: str, extra: str) -> Any:
    """An optional package, loaded now that somebody wants it.

    Raises:
        BadProvider: It is missing; says which extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise BadProvider(
            f"{user} need a package that is missing. Run: pip install 'limner[{extra}]'"
        ) from None
