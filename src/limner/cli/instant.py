"""The verb ``instant`` on the command line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limner.cli.options import BASE, Json, Option, example, taking
from limner.cli.session import session
from limner.imports import swiftly

INSTANT = (
    BASE,
    Option(
        "--predictor",
        "predictor",
        str,
        "A predictor: its file, folder or hub id. Left out: the one that comes with the base.",
        metavar="NAME",
    ),
    Option(
        "--encoders",
        "encoders",
        str,
        "For a published predictor: the folder with its encoders, siglip2/ and dinov3/.",
        metavar="FOLDER",
    ),
    Option(
        "--experts",
        "experts",
        str,
        "Files of the predictor's folder, such as style,bias: their LoRAs are added up.",
        metavar="NAMES",
    ),
    Option("--rank", "rank", int, "Rank of the file, at most that of the prediction. Left out: that."),
    Option("--strength", "strength", float, "Multiplied into the LoRA.", 1.0),
    Option(
        "--to",
        "tool",
        str,
        "The tool that the file is for.",
        "diffusers",
        metavar="TOOL",
        values=("diffusers", "comfyui", "kohya", "sd-scripts", "musubi", "diffsynth"),
    ),
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    command = "limner instant photos/ --base glyph --out style.safetensors"
    app.command(epilog=example(command))(instant)


@taking(INSTANT)
def instant(
    *,
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTOS..", help="1 to 8 pictures of one style, or their folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("instant.safetensors"),
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Make a LoRA of pictures in one pass, without training.

    A predictor reads the pictures and writes the LoRA. More than 8 are read in groups.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        with swiftly():
            import limner.prediction  # noqa: F401
            from limner import api
        keys = {key: value for key, value in options.items() if value is not None}
        report = api.instant(photos, out=out, on_event=reporter.on_event, **keys)
    energy = "" if report.energy > 0.999999 else f", {report.energy:.1%} of the energy kept"
    lines = [
        f"{report.lora}: rank {report.rank}, {report.layers} layers, from {report.images} pictures{energy}; "
        f"{report.seconds:.1f} s",
        f'Next: limner generate {report.lora} --prompt ".."',
    ]
    result(report, lines, as_json=as_json)
