"""The verb ``studio`` on the command line."""

from pathlib import Path
from typing import Annotated

import typer

from limner.cli.options import example


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner studio --demo"))(studio)


def studio(
    *,
    workspace: Annotated[
        Path, typer.Option("--workspace", help="Folder for images, recipes and runs; nothing else is read.")
    ] = Path(),
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. 0.0.0.0: others may come in, with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8501,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Lay the demo's images into the workspace, for a try on any laptop."),
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
) -> None:
    """Open Limner in a browser: images, plan, training, pictures.

    Training runs in processes of its own, which go on when the studio is closed.
    """
    from limner.studio.server import StudioOptions, serve

    serve(
        StudioOptions(workspace=workspace, host=host, port=port, demo=demo, browser=browser),
        lambda line: typer.echo(line, err=True),
    )
