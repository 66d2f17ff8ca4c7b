"""Pages from jinja2 templates in which all is escaped that is not marked as HTML."""

import base64
import hashlib
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from limner.report.markup import clean


@cache
def environment() -> Environment:
    """Where templates come from, and what they may do: an unknown name is an error."""
    return Environment(
        loader=PackageLoader("limner.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: File in ``report/templates``.
        values: Its values. Text is escaped; ``Markup`` goes in as it is.
    """
    return environment().get_template(template).render(values)


def script(name: str) -> dict[str, Markup]:
    """The values ``script`` and ``digest`` of a template: the only script that the page's rules let run.

    Args:
        name: File in ``report/templates``. It goes into the page letter by letter, as its digest is named.
    """
    loader = environment().loader
    assert loader is not None
    text = loader.get_source(environment(), name)[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "digest": Markup(f"sha256-{digest}")}


def footer() -> str:
    """The last line of a page: who made it, and when."""
    now = datetime.now()
    return (
        f"Made by Limner {version('limner')} on {now.day} {now:%B %Y, %H:%M}. One file, which loads nothing."
    )


def _finalized(value: Any) -> Any:
    """A value without what HTML cannot hold."""
    return value if isinstance(value, Markup) else clean(str(value))
