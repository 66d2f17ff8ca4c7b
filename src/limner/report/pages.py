"""Pages from jinja2 templates in which all is escaped that is not marked as HTML."""

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


def footer() -> str:
    """The last line of a page: who made it, and when."""
    now = datetime.now()
    return (
        f"Made by Limner {version('limner')} on {now.day} {now:%B %Y, %H:%M}. One file: it loads nothing and "
        "runs nothing."
    )


def _finalized(value: Any) -> Any:
    """A value without what HTML cannot hold."""
    return value if isinstance(value, Markup) else clean(str(value))
