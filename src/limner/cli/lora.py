"""``limner lora``: what can be done with LoRA files."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli.options import Json, Option, example, taking
from limner.cli.session import session
from limner.errors import BadUsage
from limner.imports import swiftly
from limner.lora.location import local, output_path

if TYPE_CHECKING:
    from limner.lora.operations import ConvertOptions, WriteResult
    from limner.lora.resizing import RankRule

app = typer.Typer(
    name="lora",
    help="Look at LoRA files, convert, merge, resize, extract, and merge them into a base.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(metavar="LORA", help="A .safetensors file of any tool, or a hub id.")]
Out = Annotated[Path | None, typer.Option("--out", help="The file to write.", show_default=False)]

FAMILY = Option(
    "--family", "family", str, "Family of the base, where the names alone do not tell: flux, sdxl .."
)
DTYPE = Option("--dtype", "dtype", str, "float32, float16 or bfloat16. Left out: as it was.")
TO = Option("--to", "to", str, "Tool that it is for, as in convert.", "diffusers")
LEAVE_OUT = Option("--leave-out", "leave_out", bool, "Leave out what the tool cannot read, by name.", False)
KEEP_METADATA = Option(
    "--keep-metadata",
    "keep_metadata",
    bool,
    "Keep what the file says of its maker's dataset and machine.",
    False,
)
KIND = Option("--kind", "kind", str, "Kind of adapter: lora, loha, lokr or dora. Left out: as it is.")
FACTOR = Option(
    "--factor", "factor", int, "Of a LoKr: one side of its small matrix where it divides the layer's."
)
BASE = Option("--base", "base", Path, "Checkpoint of the base, which a DoRA needs.")
RULES = (
    Option("--rank", "rank", int, "Keep so many ranks of every module."),
    Option(
        "--energy", "energy", float, "Keep this share of each module's squared singular values, e.g. 0.99."
    ),
    Option("--sum", "sum", float, "Keep this share of each module's singular values."),
    Option("--ratio", "ratio", float, "Keep singular values above the module's largest divided by this."),
    Option(
        "--total-energy", "total-energy", float, "Keep this share over all modules, where it weighs most."
    ),
    Option(
        "--parameters", "parameters", float, "Keep so many numbers in the whole file, where they weigh most."
    ),
)


def _options(values: dict[str, Any]) -> "ConvertOptions":
    from limner.lora.operations import ConvertOptions

    names = [item.name for item in fields(ConvertOptions)]
    return ConvertOptions(**{name: values[name] for name in names if values.get(name) is not None})


def _rule(values: dict[str, Any]) -> "RankRule | None":
    """The one rule that was options, if any."""
    from limner.lora.resizing import RankRule

    criteria: list[Any] = [option.key for option in RULES if values.get(option.key) is not None]
    if len(criteria) > 1:
        raise BadUsage(f"--{criteria[0]} and --{criteria[1]} are two ways to choose ranks. Give one.")
    return RankRule(criteria[0], float(values[criteria[0]])) if criteria else None


def _show(report: "WriteResult", *, as_json: bool, details: bool = True) -> None:
    from limner.cli.show import result

    lines = [
        f"{report.path}: {report.modules} modules for {report.tool}"
        f"{f' ({report.family})' if report.family else ''}, read back within {report.error:.1e}",
    ]
    if report.energy is not None and details:
        lines.append(f"Energy kept: {report.energy:.1%} (share of the changes' squared size)")
    if report.losses and details:
        worst = sorted(report.losses, key=lambda loss: -loss.relative)
        lines.append(f"Lost of a module's change: {worst[0].relative:.1%} at most. The most by name:")
        lines += [f"  {loss.relative:7.2%}  {loss.component}.{loss.module}" for loss in worst[:8]]
    if report.left_out and details:
        lines += [f"Not in the file: {line}" for line in report.left_out[:8]]
        if len(report.left_out) > 8:
            lines.append(f"Not in the file: {len(report.left_out) - 8} more")
    result(report, lines, as_json=as_json)


def register(parent: typer.Typer) -> None:
    """Add the verbs to the command line."""
    parent.add_typer(app)


@app.command(epilog=example("limner lora convert cat.safetensors --to comfyui"))
@taking(
    (
        FAMILY,
        DTYPE,
        LEAVE_OUT,
        KEEP_METADATA,
        Option("--flatten", "flatten", int, "Make LoHa, LoKr and DoRA plain LoRAs of at most this rank."),
        KIND,
        Option("--rank", "rank", int, "Of --kind; left out: of each module what it is."),
        FACTOR,
        BASE,
    )
)
def convert(
    *,
    lora: File,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="diffusers, comfyui, kohya (A1111, Forge), sd-scripts, musubi or diffsynth."
        ),
    ],
    out: Out = None,
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Write a LoRA as another tool reads it.

    The file is read back by that tool's rules, and every module compared.
    """
    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.lora.operations import convert as run

        out = out or output_path(lora, f"-{to}.safetensors")
        report = run(local(lora), to, out, _options(options), reporter)
    _show(report, as_json=as_json)


@app.command(epilog=example("limner lora merge cat.safetensors ink.safetensors --out both.safetensors"))
@taking((FAMILY, DTYPE, TO, LEAVE_OUT, KEEP_METADATA, KIND, FACTOR, BASE, *RULES))
def merge(
    *,
    loras: Annotated[list[Path], typer.Argument(metavar="LORA..", help="Two or more, of one base.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    weight: Annotated[
        list[float] | None, typer.Option("--weight", help="Strength of each, in order; 1 when left out.")
    ] = None,
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Write the weighted sum of several LoRAs.

    Exact, its rank is the sum of theirs; give a rule for ranks to make it smaller.
    """
    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.lora.operations import merge as run

        paths = [local(lora) for lora in loras]
        report = run(paths, weight or [], out, _options(options), _rule(options), reporter)
    _show(report, as_json=as_json)


@app.command(epilog=example("limner lora resize cat.safetensors --rank 8"))
@taking((FAMILY, DTYPE, TO, LEAVE_OUT, KEEP_METADATA, KIND, FACTOR, BASE, *RULES))
def resize(*, lora: File, out: Out = None, options: dict[str, Any], as_json: Json = False) -> None:
    """Write a LoRA at other ranks.

    The nearest of that rank, module by module, and what each module lost.
    """
    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.lora.operations import resize as run

        rule = _rule(options)
        if rule is None:
            raise BadUsage("There is no rule for the ranks. Give --rank 16, or --energy 0.99 ..")
        report = run(
            local(lora), rule, out or output_path(lora, "-resized.safetensors"), _options(options), reporter
        )
    _show(report, as_json=as_json)


@app.command(epilog=example("limner lora extract sdxl tuned.safetensors --out lora.safetensors"))
@taking(
    (
        FAMILY,
        DTYPE,
        TO,
        LEAVE_OUT,
        Option("--rank", "rank", int, "LoRA rank (network_dim).", 32),
        Option("--kind", "kind", str, "Kind of adapter: lora, loha, lokr or dora.", "lora"),
        FACTOR,
    )
)
def extract(
    *,
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="What was fine-tuned: a file, a folder, or a base's name.")
    ],
    finetune: Annotated[Path, typer.Argument(metavar="TUNED", help="The fine-tune: a file or a folder.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Write a fine-tune's difference to its base as a LoRA, or another kind of adapter.

    Both as .safetensors, in diffusers' layout or as one file.
    """
    with session(as_json=as_json) as reporter:
        with swiftly():
            from limner.lora.operations import extract as run

        report = run(base, finetune, options["rank"], out, _options(options), reporter)
    _show(report, as_json=as_json)


@app.command(epilog=example("limner lora merge-into-base cat.safetensors --base sdxl/ --out cat-sdxl/"))
@taking((FAMILY, Option("--weight", "weight", float, "Strength of the LoRA.", 1.0)))
def merge_into_base(
    *,
    lora: File,
    base: Annotated[Path, typer.Option("--base", help="Checkpoint of the base: a file or a folder.")],
    out: Annotated[Path, typer.Option("--out", help="What to write, a file or a folder as the base is.")],
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Write a base with a LoRA in it for good.

    Computed in float64 and rounded once; everything else stays as it was.
    """
    from limner.cli.show import result

    with session(as_json=as_json):
        with swiftly():
            from limner.lora.operations import merge_into_base as run

        report = run(local(lora), base, out, options["weight"], _options(options))
    result(report, [f"{out}: {report['weights']} weights changed ({report['family']})"], as_json=as_json)


@app.command(epilog=example("limner lora info cat.safetensors"))
@taking((FAMILY,))
def info(*, lora: File, options: dict[str, Any], as_json: Json = False) -> None:
    """Say what is in a LoRA file, and which tools load it.

    Family, ranks, targets, norms, trigger, how it was trained, and what is wrong with it.
    """
    from limner.cli.show import result

    with session(as_json=as_json):
        with swiftly():
            from limner.lora.inspect import inspect, table

        summary = inspect(local(lora), options["family"])
    result(summary, table(summary), as_json=as_json)
