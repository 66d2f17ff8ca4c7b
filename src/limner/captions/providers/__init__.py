"""Who can be asked for captions: one small file each. A file names ``provider(Options) -> Provider``.

To add one, write the file and a line in ``KNOWN``. Its packages are imported inside of it, when it is chosen.
"""

import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from limner.captions.client import Provider
from limner.errors import BadProvider, BadUsage


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
    device: str = "auto"
    """Of local models: auto, cpu, cuda, mps."""


class Known(NamedTuple):
    """Where a provider is made, and what it is."""

    module: str
    what: str
    url: str = ""
    """Of a server with a usual address."""


KNOWN = {
    "claude": Known("anthropic", "Anthropic's Claude, by its API"),
    "openai": Known("openai", "OpenAI, or with --url any server that speaks its protocol"),
    "ollama": Known("openai", "Ollama on this machine", "http://localhost:11434/v1"),
    "lmstudio": Known("openai", "LM Studio on this machine", "http://localhost:1234/v1"),
    "vllm": Known("openai", "vLLM on this machine", "http://localhost:8000/v1"),
    "llamacpp": Known("openai", "llama.cpp's server on this machine", "http://localhost:8080/v1"),
    "local": Known("local", "a vision-language model inside Limner, through transformers"),
    "tagger": Known("tagger", "an ONNX tagger of the WD14 kind inside Limner"),
}
"""Name after ``--with`` -> provider."""

ALIASES = {"anthropic": "claude"}


def known(name: str) -> Known:
    """The provider of a name.

    Raises:
        BadUsage: There is none.
    """
    entry = KNOWN.get(ALIASES.get(name, name))
    if entry is None:
        names = "; ".join(f"{key} ({value.what})" for key, value in KNOWN.items())
        raise BadUsage(f'--with is "{name}"; it must be one of: {names}.')
    return entry


def provider(options: Options) -> Provider:
    """Make a provider ready to be asked.

    Raises:
        BadUsage: There is none of that name, or the options do not fit it.
        BadProvider: Its package, key or model is missing.
    """
    return importlib.import_module(f"{__name__}.{known(options.name).module}").provider(options)


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
