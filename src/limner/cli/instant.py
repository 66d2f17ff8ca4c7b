"""The verb ``instant`` on the command line, and those on predictors below it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from limner.cli.options import BASE, Events, Json, Option, Out, example, recipe_options, taking
from limner.cli.session import session
from limner.imports import swiftly
from limner.reporter import counted
from limner.target import overrides_from, request_for

INSTANT = (
    BASE,
    Option(
        "--predictor",
        "predictor",
        str,
        "A predictor: its file, folder or hub id, or a published one's name: z-image-i2l, "
        "qwen-image-i2l. Left out: the one that comes with the base.",
        metavar="NAME",
    ),
    Option(
        "--encoders",
        "encoders",
        str,
        "For a published predictor: the folder with its encoders, siglip2/ and dinov3/. Left out: "
        "the hub's cache.",
        metavar="FOLDER",
    ),
    Option(
        "--experts",
        "experts",
        str,
        "Files of the predictor's folder, such as style,bias:0.9, each with a strength or at 1: their "
        "LoRAs are added up.",
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


MAKE = "pictures"
"""The verb below ``instant`` that needs no name: anything that names no other is pictures."""


class InstantGroup(TyperGroup):
    """``limner instant PHOTOS..`` makes a LoRA; ``limner instant train`` and others are of predictors."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb that needs no name where none stands."""
        return super().parse_args(ctx, args if args[:1] and args[0] in self.commands else [MAKE, *args])


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    verbs = typer.Typer(
        name="instant",
        cls=InstantGroup,
        help="Make a LoRA of pictures in one pass, without training; train, eval: of predictors.",
        rich_markup_mode=None,
    )
    command = "limner instant photos/ --base glyph --out style.safetensors"
    verbs.command(MAKE, epilog=example(command))(instant)
    verbs.command("train", epilog=example("limner instant train recipe.toml"))(train)
    command = "limner instant eval runs/lora/predictor styles/ --base glyph"
    verbs.command("eval", epilog=example(command))(evaluate)
    command = "limner instant bias runs/lora/predictor --base glyph --prompts prompts.txt --out experts"
    verbs.command("bias", epilog=example(command))(bias)
    app.add_typer(verbs)


@taking(recipe_options("train"))
def train(
    *,
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", help="A recipe.toml, a run folder, or a folder of style folders."),
    ],
    out: Out = None,
    options: dict[str, Any],
    as_json: Json = False,
    events: Events = False,
) -> None:
    """Train a predictor, which makes a LoRA of pictures in one pass, or resume such a run.

    The pictures lie in folders, one for each style, with captions. It is `limner train` with train.method =
    "instant": so are plans, caches, several processes and resuming.
    """
    from limner import api
    from limner.cli.show import result

    with session(as_json=as_json, events=events) as reporter:
        overrides = overrides_from(options) | {"train.method": "instant"}
        request = request_for(target, overrides, out)
        summary = api.train(request.recipe, out=request.out, on_event=reporter.on_event)
    loss = "" if summary.validation_loss is None else f", validation loss {summary.validation_loss:.4f}"
    lines = [
        f"Predictor: {summary.model}",
        f"Report:    {summary.report}",
        f"Trained:   {summary.steps} steps in {summary.seconds:.0f} s{loss}",
    ]
    result(summary, lines, as_json=as_json or events)


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

    A predictor reads the pictures and writes the LoRA. More than 8 are read in groups. On predictors:
    `limner instant train`, `eval` and `bias`, each with --help.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        with swiftly():
            import limner.prediction  # noqa: F401
            from limner import api
        keys = {key: value for key, value in options.items() if value is not None}
        report = api.instant(photos, out=out, on_event=reporter.on_event, **keys)
    images = counted(report.images, "picture")
    energy = "" if report.energy > 0.999999 else f", {report.energy:.1%} of the energy kept"
    lines = [
        f"{report.lora}: rank {report.rank}, {report.layers} layers, from {images}{energy}; "
        f"{report.seconds:.1f} s",
        f'Next: limner generate {report.lora} --prompt ".."',
    ]
    result(report, lines, as_json=as_json)


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were named, and the base that is trained where none is."""
    from limner.recipe.schema import Recipe

    return {"base": Recipe().base, **{key: value for key, value in options.items() if value is not None}}


ENCODERS = Option(
    "--encoders", "encoders", Path, "Folder of frozen encoders. Left out: the hub's cache.", metavar="FOLDER"
)
EVAL = (
    BASE,
    ENCODERS,
    Option("--references", "references", int, "Images of each style that it looks at.", 4),
)


@taking(EVAL)
def evaluate(
    *,
    predictor: Annotated[Path, typer.Argument(metavar="PREDICTOR", help="A predictor: its file or folder.")],
    styles: Annotated[Path, typer.Argument(metavar="STYLES", help="A folder of style folders.")],
    experts: Annotated[
        list[Path] | None,
        typer.Option("--expert", help="A further predictor or bias; may be repeated.", show_default=False),
    ] = None,
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Measure a predictor on styles that it has not seen.

    The loss with each style's own LoRA, without one, and with another style's; how much the LoRAs differ. A
    gain below 0 on images that the base generated is its drift.
    """
    from limner.cli.show import result

    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.training.predictor_eval import EvalOptions, evaluate_predictor

        values = _named(options)
        request = EvalOptions(styles=styles, experts=tuple(experts or ()), **values)
        report = evaluate_predictor(predictor, request, reporter)
    result(report, report.lines(), as_json=as_json)


BIAS = (
    BASE,
    ENCODERS,
    Option("--images", "images", int, "Images that the base generates, in all.", 100),
    Option(
        "--keep",
        "keep",
        Path,
        "A folder of style folders: images whose LoRAs keep their effect.",
        metavar="FOLDER",
    ),
    Option("--keep-weight", "keep_weight", float, "Loss weight of those images. Left out: 0.2."),
    Option("--rank", "rank", int, "Rank of the bias.", 16),
    Option("--steps", "steps", int, "Optimizer steps.", 300),
    Option("--lr", "learning_rate", float, "Learning rate.", 2e-3),
    Option("--seed", "seed", int, "Random seed.", 0),
)


@taking(BIAS)
def bias(
    *,
    predictors: Annotated[
        list[Path], typer.Argument(metavar="PREDICTORS..", help="Predictors whose LoRAs are added up.")
    ],
    prompts: Annotated[Path, typer.Option("--prompts", help="A text file with a prompt in each line.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write, for --experts.")] = Path("experts"),
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Train a bias: one LoRA that leads a predictor's back to what the base itself generates.

    The base generates images, of which predictors make LoRAs; beside those, the bias learns to predict what
    the bare base does. With --keep it learns to leave other LoRAs as they are, too. OUT then holds the
    predictors and bias.safetensors: limner instant PHOTOS --predictor OUT --experts ..,bias
    """
    from limner import api
    from limner.cli.show import result
    from limner.recipe.prompt_file import prompt_lines

    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.training.bias import BiasOptions, expert_names, train_bias

        values = _named(options)
        lines = prompt_lines(prompts, "--prompts", "another file")
        request = BiasOptions(prompts=tuple(line.prompt for line in lines), **values)
        names = expert_names(predictors)
        lora = train_bias(
            predictors,
            out,
            request,
            lambda recipe, run: api.train(recipe, out=run, on_event=reporter.on_event).lora,
        )
    experts = ",".join([*names, "bias"])
    text = [
        f"Bias: {lora}",
        f"Next: limner instant PHOTOS --base {request.base} --predictor {out} --experts {experts}",
    ]
    result({"bias": lora, "experts": experts}, text, as_json=as_json)
