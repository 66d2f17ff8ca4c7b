"""Options as tables: a verb takes them as one dict, and its help lists those that matter to it."""

import inspect
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from limner.errors import BadUsage

Target = Annotated[
    Path, typer.Argument(metavar="TARGET", help="A folder of images, a recipe.toml, or a run folder.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Run folder. Left out: runs/<name>.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]
Events = Annotated[
    bool, typer.Option("--events", help="Events as lines of JSON on stdout; the last is the result.")
]


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    Attributes:
        flag: As it is typed.
        key: The key under which a verb finds its value; for ``RECIPE`` a dotted path of the recipe.
        kind: Its type.
        help: One line.
        default: Its value when it is left out.
        metavar: How its value is called in the help; its type when left out.
        verbs: For ``RECIPE``: the verbs whose help lists it. The others take it as well, so that a command
            can be typed again with another verb.
        hidden: Whether the help leaves it out.
        values: What the shell may complete: the values, or a function that lists them.
        also: Another spelling of the flag; "" where there is none.
    """

    flag: str
    key: str
    kind: Any
    help: str
    default: Any = None
    metavar: str | None = None
    verbs: str = ""
    hidden: bool = False
    values: tuple[str, ...] | Callable[[], Sequence[str]] = ()
    also: str = ""

    @property
    def name(self) -> str:
        """As a Python name: ``--with`` is ``with_``."""
        name = self.flag.removeprefix("--").replace("-", "_")
        return f"{name}_" if keyword.iskeyword(name) else name


def bases() -> list[str]:
    """Names of bases, for the shell to complete."""
    from limner.models.registry import registered_bases

    return list(registered_bases())


def assignments() -> list[str]:
    """Keys of the recipe as ``--set`` takes them, for the shell to complete."""
    from limner.recipe import Recipe
    from limner.recipe.aliases import keys

    return [f"{key}=" for key in keys(Recipe)]


CONCEPT_TYPES = ("subject", "face", "object", "style", "concept")
BASE = Option(
    "--base",
    "base",
    str,
    'Base model: a name ("glyph", "flux-dev", "sdxl"), a hub id, a folder or a .safetensors file.',
    metavar="MODEL",
    verbs="init train cache check plan",
    values=bases,
)
COMPONENTS = Option(
    "--components-from",
    "components_from",
    str,
    "For a base in one file: the base whose components (VAE, text encoders ..) fill in what it lacks.",
    metavar="MODEL",
    verbs="init train cache check plan",
)
RECIPE = (
    BASE,
    COMPONENTS,
    Option(
        "--trigger", "data.trigger", str, 'Trigger word(s), e.g. "sks cat".', verbs="init train cache check"
    ),
    Option(
        "--concept-type",
        "concept_type",
        str,
        "What the images share: subject, face, object, style, concept. Chooses the preset.",
        verbs="init train cache check plan",
        values=CONCEPT_TYPES,
    ),
    Option("--rank", "lora.rank", int, "LoRA rank (network_dim).", verbs="init train plan"),
    Option("--steps", "train.steps", int, "Optimizer steps (max_train_steps).", verbs="init train plan"),
    Option("--lr", "train.learning_rate", float, "Learning rate.", verbs="init train"),
    Option(
        "--batch",
        "train.batch",
        int,
        "Batch size: images per optimizer step, gradient accumulation included.",
        verbs="init train plan",
    ),
    Option(
        "--resolution",
        "data.resolution",
        str,
        "Training resolution: side of the square in pixels, or several: 512,768,1024.",
        metavar="PIXELS",
        verbs="init train cache check plan",
    ),
    Option("--seed", "seed", int, "Random seed.", verbs="init train"),
    Option("--save-every", "train.save_every", int, "Steps between checkpoints.", verbs="init train"),
    Option(
        "--vram",
        "limits.vram",
        str,
        "VRAM to plan for: 12GB. Left out: what is free.",
        metavar="SIZE",
        verbs="init train plan",
    ),
    Option(
        "--weights-precision",
        "limits.weights_precision",
        str,
        "Coarsest quantization of frozen weights: 16bit, 8bit, 4bit.",
        verbs="init train plan",
        values=("16bit", "8bit", "4bit"),
    ),
    Option(
        "--matmul-precision",
        "limits.matmul_precision",
        str,
        "Matmul of weights stored in 8 bits: full, or 8bit (opt-in).",
        verbs="init train plan",
        values=("full", "8bit"),
    ),
    Option(
        "--sample-every",
        "sample.every",
        int,
        "Steps between samples (validation images); 0: start and end, -1: never.",
        verbs="init train",
    ),
    Option(
        "--set",
        "set",
        list[str],
        "Any recipe key, e.g. --set train.warmup=100; may be repeated.",
        metavar="KEY=VALUE",
        verbs="init train cache check plan",
        values=assignments,
    ),
)
"""Short names for keys of the recipe."""

SAMPLING = (
    Option("--prompt", "prompts", list[str], "Prompt; may be repeated.", metavar="TEXT"),
    Option(
        "--prompt-file",
        "prompt_file",
        Path,
        "Text file, a prompt per line; flags as in sd-scripts: --n --w --h --d --s --l.",
    ),
    Option(
        "--step",
        "step",
        str,
        "Of a run: LoRA of a training step, best or last; or several for a grid: 100,200,best.",
        metavar="STEPS",
    ),
    Option("--negative-prompt", "negative_prompt", str, "What the images shall not show.", metavar="TEXT"),
    replace(BASE, help="Base model. Left out: the one that the LoRA was trained on."),
    COMPONENTS,
    Option(
        "--on",
        "sample_base",
        str,
        "Another base to sample on, in its few steps: twin, the distilled twin of the LoRA's base, or its "
        "name.",
        metavar="TWIN",
    ),
    Option(
        "--lora-scale",
        "lora_scale",
        str,
        "LoRA scale (strength), or several for a grid: 0,0.5,1 or -2..2. 0 is the base alone.",
        "1",
        also="--strength",
        metavar="NUMBERS",
    ),
    Option(
        "--lora",
        "loras",
        list[str],
        "A further LoRA (file, run or hub id) and its strength; may be repeated.",
        metavar="FILE[:STRENGTH]",
    ),
    Option(
        "--embedding",
        "embeddings",
        list[Path],
        "Textual inversion (file or run) whose word prompts may hold; may be repeated.",
        metavar="FILE",
    ),
    Option(
        "--lora-on",
        "lora_on",
        str,
        "Branches of guidance (CFG) that the LoRA is on: both, or positive, which amplifies it. Left out: as "
        "it asks for, else both.",
        metavar="BRANCHES",
        values=("both", "positive"),
    ),
    Option(
        "--negative-lora",
        "negative_lora",
        Path,
        "A LoRA for the negative branch, in place of the other.",
        metavar="FILE",
    ),
    Option(
        "--image",
        "images",
        list[Path],
        "Control image for an edit model; may be repeated. Left out: those of the run's recipe.",
        metavar="FILE",
    ),
    Option("--images-per-prompt", "images_per_prompt", int, "Images per prompt, at seeds one apart.", 1),
    Option("--steps", "steps", int, "Inference steps. Left out: 20."),
    Option("--guidance", "guidance", float, "Guidance scale (CFG). Left out: the base's own."),
    Option(
        "--seed",
        "seed",
        str,
        "Random seed of the first image of each prompt, or several for a grid: 1,2,3.",
        "0",
        metavar="NUMBERS",
    ),
    Option("--width", "width", int, "Pixels. Left out: as trained."),
    Option("--height", "height", int, "Pixels. Left out: as trained."),
)
"""How images are generated."""


def numbers(flag: str, text: str, kind: Callable[[str], Any]) -> Any:
    """What an option holds that takes one number or several: ``numbers("--seed", "1,2", int) == [1, 2]``.

    ``-2..2`` stands for every number from the first to the last, one apart.

    Raises:
        BadUsage: It holds something else.
    """
    try:
        values = [value for part in text.split(",") for value in _span(part, kind)]
    except ValueError:
        raise BadUsage(
            f"{flag} is {text!r}; write a number, several with commas between them, or a range: 1..4."
        ) from None
    return values if len(values) > 1 else values[0]


def _span(text: str, kind: Callable[[str], Any]) -> list[Any]:
    """The numbers that ``-2..2`` stands for, or the one that is there.

    Raises:
        ValueError: They are none, or more than 100.
    """
    first, dots, last = text.partition("..")
    if not dots:
        return [kind(text)]
    start, count = kind(first), kind(last) - kind(first)
    if not 0 <= count <= 100:
        raise ValueError(text)
    return [start + offset for offset in range(int(count) + 1)]


def steps_from(text: str | None) -> list[int | str]:
    """What ``--step`` holds: ``steps_from("100,best") == [100, "best"]``.

    Raises:
        BadUsage: It holds something else.
    """
    steps: list[int | str] = []
    for part in text.split(",") if text is not None else ():
        if part not in ("best", "last") and not (part.isascii() and part.isdigit()):
            raise BadUsage(
                f"--step is {text!r}; write a number, best or last, or several with commas between."
            )
        steps.append(int(part) if part.isdigit() else part)
    return steps


def strengths(texts: Sequence[str]) -> dict[Path, float]:
    """LoRAs and their strengths: ``strengths(["a.safetensors:0.8"]) == {Path("a.safetensors"): 0.8}``."""
    scales: dict[Path, float] = {}
    for text in texts:
        path, colon, tail = text.rpartition(":")
        try:
            scales[Path(path if colon else text)] = float(tail) if colon else 1.0
        except ValueError:  # a colon of the path, as in C:\lora.safetensors
            scales[Path(text)] = 1.0
    return scales


def recipe_options(verb: str) -> tuple[Option, ...]:
    """``RECIPE`` for one verb: all of it is taken, and the help lists what matters to the verb."""
    return tuple(replace(option, hidden=verb not in option.verbs.split()) for option in RECIPE)


def example(command: str) -> str:
    """The last line of a verb's help."""
    return f"Example: {command}"


def taking(table: Sequence[Option]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb a table of options; it gets their values by key as one dict, its argument ``options``."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            verb(options={option.key: values.pop(option.name) for option in table}, **values)

        arguments = [item for item in inspect.signature(verb).parameters.values() if item.name != "options"]
        items = [*arguments, *map(_parameter, table)]
        # typer reads the options of a command from its signature.
        command.__signature__ = inspect.Signature(items)  # pyright: ignore[reportFunctionMemberAccess]
        command.__annotations__ = {item.name: item.annotation for item in items}
        command.__name__ = verb.__name__
        command.__doc__ = verb.__doc__
        return command

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    kind = option.kind if option.default is not None else option.kind | None
    info = typer.Option(
        *(flag for flag in (option.flag, option.also) if flag),
        help=option.help,
        show_default=option.default is not None,
        metavar=option.metavar,
        hidden=option.hidden,
        autocompletion=_completer(option) if option.values else None,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=Annotated[kind, info],
    )


def _completer(option: Option) -> Callable[[str], list[str]]:
    """List the values of an option that begin with what was typed."""

    def complete(incomplete: str) -> list[str]:
        values = option.values() if callable(option.values) else option.values
        return [value for value in values if value.startswith(incomplete)]

    return complete
