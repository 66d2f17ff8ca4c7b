"""The caption providers, one record each: what the command line, the price list and doctor know of it.

To add one, add a record to :data:`PROVIDERS`, a module with ``provider(Options) -> Provider``, and its
package, if it has one, to an extra in ``pyproject.toml``. Imports none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from limner.errors import BadUsage


@dataclass(frozen=True, kw_only=True)
class ProviderRecord:
    """One caption provider."""

    name: str
    """As ``--with`` names it."""
    title: str
    """What it is, for people."""
    module: str
    """Module with its ``provider``; one that begins with a dot is in ``limner.captions.providers``."""
    url: str = ""
    """Of a server with a usual address."""
    package: str = ""
    """What pip installs for it, where Limner does not depend on it already."""
    extra: str = ""
    """The extra of Limner that brings the package."""
    is_local: bool = False
    """Whether it works on this machine, and so costs nothing and sends no image away."""
    use: str = ""
    """What the package is for, where that is more than this provider."""
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Model -> US dollars per million tokens (read, written), besides those in ``prices.json``."""


def _server(name: str, title: str, url: str = "", use: str = "") -> ProviderRecord:
    """A server that speaks OpenAI's protocol."""
    return ProviderRecord(
        name=name,
        title=title,
        module=".openai",
        url=url,
        package="openai",
        extra="caption",
        is_local=bool(url),
        use=use,
    )


PROVIDERS: dict[str, ProviderRecord] = {
    record.name: record
    for record in (
        ProviderRecord(
            name="claude",
            title="Anthropic's Claude, by its API",
            module=".anthropic",
            package="anthropic",
            extra="caption",
        ),
        _server(
            "openai",
            "OpenAI, or with --url any server that speaks its protocol",
            use="limner caption --with openai, and servers like it",
        ),
        _server("ollama", "Ollama on this machine", "http://localhost:11434/v1"),
        _server("lmstudio", "LM Studio on this machine", "http://localhost:1234/v1"),
        _server("vllm", "vLLM on this machine", "http://localhost:8000/v1"),
        _server("llamacpp", "llama.cpp's server on this machine", "http://localhost:8080/v1"),
        ProviderRecord(
            name="local",
            title="a vision-language model inside Limner, through transformers",
            module=".local",
            package="torchvision",
            is_local=True,
            extra="local",
            use="limner caption --with local, for models that want it",
        ),
        ProviderRecord(
            name="tagger",
            title="an ONNX tagger of the WD14 kind inside Limner",
            module=".tagger",
            package="onnxruntime",
            is_local=True,
            extra="tagger",
        ),
    )
}
"""Name after ``--with`` -> record."""

ALIASES = {"anthropic": "claude"}


def choices() -> str:
    """Who can be asked, those first that are free and send nothing away."""
    local, remote = (
        ", ".join(name for name, record in PROVIDERS.items() if record.is_local is side)
        for side in (True, False)
    )
    return f"free and on this machine: {local}; by an API that costs, and gets the images: {remote}"


def provider_record(name: str) -> ProviderRecord:
    """The record of a provider.

    Raises:
        BadUsage: There is none of that name.
    """
    record = PROVIDERS.get(ALIASES.get(name, name))
    if record is None:
        names = "; ".join(f"{key} ({value.title})" for key, value in PROVIDERS.items())
        raise BadUsage(f'--with is "{name}"; it must be one of: {names}.')
    return record


def optional_packages() -> dict[str, tuple[str, str]]:
    """Package -> extra that brings it, what it is for."""
    uses: dict[str, tuple[str, str]] = {}
    for record in PROVIDERS.values():
        if record.package:
            use = record.use or f"limner caption --with {record.name}"
            uses.setdefault(record.package, (record.extra, use))
    return uses
