"""``limner fetch``: have a base on this disk before it is needed."""

from typing import Annotated

import typer

from limner.cli.options import Json, bases, example
from limner.cli.session import session


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner fetch sdxl"))(fetch)


def fetch(
    *,
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help='A name ("flux-dev", "sdxl") or a hub id (owner/name).',
            autocompletion=lambda incomplete: [name for name in bases() if name.startswith(incomplete)],
        ),
    ],
    as_json: Json = False,
) -> None:
    """Fetch the files of a base that training reads, and no others.

    Says size and licence first, and looks whether the disk has room. Broken off, the same command goes on.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        from limner.models.registry import embedded_bases, lora_twin
        from limner.models.source import locate

        twin = lora_twin(base)  # made of its raw base on first use
        source = locate(twin.train_on if twin else base, folders=embedded_bases(), tell=reporter.line)
    result({"base": base, "folder": source.root}, [f"{base} is here: {source.root}"], as_json=as_json)
