"""Writes docs/guide/recipe.md from the recipe itself, so that the page cannot say anything else.

``python tools/recipe_page.py``; ``make format`` runs it, and a test fails while the page differs.
"""

from pathlib import Path
from typing import Any, get_args

from limner.models import presets
from limner.recipe import aliases, spellings, toml
from limner.recipe.fields import Section
from limner.recipe.schema import ConceptType, Recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "recipe.md"
HEAD = """\
# The recipe

<!-- Written by tools/recipe_page.py from src/limner/recipe; change the docstrings there. -->

A recipe says what a person decides about a run, and nothing that a machine can work out. It is a TOML file:
```toml
base = "flux-dev"
name = "my-cat"

[data]
images = "photos"
trigger = "sks cat"

[train]
steps = 1500
```
`limner init` writes one with every key explained and the values of a preset. Keys that are left out have
the defaults below. A key that does not exist is an error that names the nearest one; so are values out
of range and keys that contradict each other. Relative paths start at the recipe's own folder. On the
command line any key can be set: `--set train.steps=800`.

Keys may be spelled as diffusers, kohya, ai-toolkit, OneTrainer, SimpleTuner and peft spell them, at the top
of the file, in any table, or in the tables of their files: `lr = 1e-4`, `[network]` with `linear = 16`,
`--set network_dim=16`. The tables below list these spellings, and [the last section](#keys-of-other-trainers)
says what there is instead of keys that have no counterpart. A recipe that Limner writes has its own keys.
"""

PLANNED_HEAD = """
## Keys of other trainers

`limner plan` decides these, so that the run fits the card; `[limits]` bounds what it may use:
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "\n## At the top\n", *_table([key for key in aliases.keys(Recipe) if "." not in key])]
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            parts += [f"\n## [{name}]\n", f"{(kind.__doc__ or '').strip()}\n\n"]
            parts += _table([key for key in aliases.keys(Recipe) if key.startswith(f"{name}.")])
    return "".join([*parts, *_presets(), *_others()])


def _others() -> list[str]:
    """Keys of other trainers without a counterpart, and what there is instead."""
    lines = [
        PLANNED_HEAD,
        _names(spellings.PLANNER_KEYS),
        "\n\nOther answers:\n\n| key | here |\n|---|---|\n",
    ]
    for key, text in spellings.INSTEAD.items():
        names = f"{key} {spellings.SYNONYMS.get(key, '')}"
        lines.append(f"| {_names(names)} | {' '.join(text.split())} |\n")
    lines += [f"| {_names(names)} | {text} |\n" for text, names in spellings.ALWAYS.items()]
    return [*lines, f"\nLimner has nothing for {_names(spellings.ABSENT)}.\n"]


def _names(words: str) -> str:
    pairs = [name.rpartition(".")[::2] for name in words.split()]
    return ", ".join(f"`{leaf}`{f' in [{table}]' if table else ''}" for table, leaf in pairs)


def _table(keys: list[str]) -> list[str]:
    lines = ["\n| key | default | may be | meaning |\n", "|---|---|---|---|\n"]
    fields, recipe = aliases.keys(Recipe), Recipe()
    for key in keys:
        value = toml.get(recipe, key)
        default = "unset" if value is None else f"`{toml.write(value)}`"
        meaning = " ".join((fields[key].description or "").split())
        if key in spellings.ALIASES:
            meaning += f" Also read: {_names(spellings.ALIASES[key])}."
        cells = (f"`{key.rpartition('.')[2]}`", default, aliases.expected(_rule(key)), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return lines


def _rule(key: str) -> dict[str, Any]:
    """The JSON schema of one key."""
    table, _, name = key.rpartition(".")
    model = Recipe.model_fields[table].annotation if table else Recipe
    assert isinstance(model, type) and issubclass(model, Section)
    return model.model_json_schema(by_alias=True)["properties"][name]


def _presets() -> list[str]:
    sizes = [1, *(size + 1 for size in presets.SIZES)]
    bounds = [f"up to {presets.SIZES[0]}", *(f"from {size}" for size in sizes[1:])]
    lines = [
        "\n## Presets for FLUX.1\n\n",
        f"Where a cell has {len(sizes)} values, they are for {', '.join(bounds)} images.\n",
    ]
    concepts = get_args(ConceptType)
    lines += ["\n| key | " + " | ".join(concepts) + " | source |\n", "|---" * (len(concepts) + 2) + "|\n"]
    for key in presets.choices(concepts[0], "flux", 1):
        if key == "sample.prompts":
            continue
        sections_chosen = {
            concept: [presets.choices(concept, "flux", size)[key] for size in sizes] for concept in concepts
        }
        cells = [
            _few([toml.write(choice.value) for choice in sections_chosen[concept]]) for concept in concepts
        ]
        sources = dict.fromkeys(choice.source for concept in concepts for choice in sections_chosen[concept])
        lines.append(f"| `{key}` | {' | '.join(cells)} | {'; '.join(sources)} |\n")
    lines += ["\nThe sources by name:\n\n"]
    lines += [f"- *{name}*: {text}\n" for name, text in presets.SOURCES.items()]
    return lines


def _few(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else " / ".join(values)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
