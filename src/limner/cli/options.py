"""Options that several verbs share, as tables: a verb takes them as one dict instead of fifteen arguments."""

import inspect
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer


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
    """

    flag: str
    key: str
    kind: Any
    help: str
    default: Any = None
    metavar: str | None = None

    @property
    def name(self) -> str:
        """As a Python name: ``--with`` is ``with_``."""
        name = self.flag.removeprefix("--").replace("-", "_")
        return f"{name}_" if keyword.iskeyword(name) else name


RECIPE = (
    Option("--base", "base", str, 'Model to teach: "glyph", "flux-dev", "sdxl", a hub id, a folder, a file.'),
    Option(
        "--components-from",
        "components_from",
        str,
        "For a base in one file: the base that lends what the file lacks.",
    ),
    Option("--trigger", "data.trigger", str, 'Words that shall summon what is learned, e.g. "sks cat".'),
    Option("--concept-type", "concept_type", str, "What the images share: subject, face, object, style."),
    Option("--rank", "lora.rank", int, "Inner width of the LoRA."),
    Option("--steps", "train.steps", int, "Optimizer steps."),
    Option("--lr", "train.learning_rate", float, "Learning rate."),
    Option("--batch", "train.batch", int, "Images per step."),
    Option("--resolution", "data.resolution", int, "Side of the training square, in pixels."),
    Option("--seed", "seed", int, "Seed of every draw."),
    Option("--save-every", "train.save_every", int, "Steps between checkpoints."),
    Option("--vram", "limits.vram", str, "Memory of the GPU to plan for: 12GB. Left out: what is free."),
    Option(
        "--weights-precision",
        "limits.weights_precision",
        str,
        "Coarsest precision of frozen weights: 16bit, 8bit, 4bit.",
    ),
    Option(
        "--matmul-precision",
        "limits.matmul_precision",
        str,
        "How 8-bit weights multiply: full, or 8bit, an opt-in.",
    ),
    Option("--sample-every", "sample.every", int, "Steps between samples; 0: start and end, -1: never."),
    Option(
        "--set",
        "set",
        list[str],
        "Any key of the recipe, e.g. --set train.clip=0.5; may be repeated.",
        None,
        "KEY=VALUE",
    ),
)
"""Short names for keys of the recipe."""

PICTURES = (
    Option("--prompt", "prompts", list[str], "What to paint; may be repeated.", None, "TEXT"),
    Option("--base", "base", str, "Model to paint with. Left out: the one that the LoRA was trained on."),
    Option(
        "--components-from",
        "components_from",
        str,
        "For a base in one file: the base that lends what the file lacks.",
    ),
    Option("--steps", "steps", int, "Denoising steps. Left out: 20."),
    Option("--guidance", "guidance", float, "Guidance. Left out: the base's own."),
    Option("--seed", "seed", int, "Seed of the first picture of each prompt.", 0),
    Option("--width", "width", int, "Pixels. Left out: as trained."),
    Option("--height", "height", int, "Pixels. Left out: as trained."),
    Option("--images-per-prompt", "images_per_prompt", int, "Pictures per prompt.", 1),
    Option("--lora-scale", "lora_scale", float, "Strength of the LoRA; 0 is the base alone.", 1.0),
)
"""How pictures are painted."""


EVENTS = typer.Option("--events", help="What happens as lines of JSON on stdout; the last is the result.")


def taking(options: Sequence[Option]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb a table of options; it gets their values by key, as one dict, in its argument ``given``."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            verb(given={option.key: values.pop(option.name) for option in options}, **values)

        own = [item for item in inspect.signature(verb).parameters.values() if item.name != "given"]
        items = [*own, *map(_parameter, options)]
        # typer reads the options of a command from its signature.
        command.__signature__ = inspect.Signature(items)  # pyright: ignore[reportFunctionMemberAccess]
        command.__annotations__ = {item.name: item.annotation for item in items}
        command.__name__ = verb.__name__
        command.__doc__ = verb.__doc__
        return command

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    kind = option.kind if option.default is not None else option.kind | None
    shown = typer.Option(
        option.flag, help=option.help, show_default=option.default is not None, metavar=option.metavar
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=Annotated[kind, shown],
    )
