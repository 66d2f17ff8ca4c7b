"""``limner publish``: a LoRA with its model card on the hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import Json, Option, example, taking
from limner.cli.session import session
from limner.imports import swiftly

PUBLISHING = (
    Option("--to", "repo", str, "Repository on the Hugging Face hub.", "", metavar="OWNER/NAME"),
    Option("--private", "private", bool, "Only its owner may see it.", False),
    Option("--dry-run", "dry_run", Path, "Write the folder here, and upload nothing.", metavar="DIR"),
    Option("--civitai", "civitai", Path, "Write what Civitai's upload page asks for here.", metavar="DIR"),
    Option("--captions", "captions", bool, "Publish the captions of the dataset, too.", False),
    Option(
        "--images",
        "images",
        Path,
        "Pictures by `limner generate` for the card. Left out: the samples of the run.",
        metavar="DIR",
    ),
    Option("--base", "base", str, "Base of a LoRA file that does not name it.", metavar="MODEL"),
)
"""What this verb asks."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=example("limner publish runs/cat --to ada/cat-lora --private"))(publish)


@taking(PUBLISHING)
def publish(
    *,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A run folder, or a LoRA file.")],
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Upload a LoRA with a model card to the Hugging Face hub, or write its folder.

    No path of this machine and no caption is published, unless --captions. Needs `hf auth login` once.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.publishing.publish import PublishRequest
            from limner.publishing.publish import publish as run

        outcome = run(PublishRequest(target=target, **options), reporter)
    lines = [str(value) for value in (outcome.url, outcome.folder, outcome.civitai) if value]
    result(outcome, lines, as_json=as_json)
