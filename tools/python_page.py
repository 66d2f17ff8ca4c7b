"""Writes docs/guide/python.md from the docstrings of the front door, so that the page says nothing else.

``python tools/python_page.py``; ``make format`` runs it, and a test fails while the page differs.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import limner
from limner import api, arguments, events
from limner.lora import verbs

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "python.md"
HEAD = """\
# Limner in Python

<!-- Written by tools/python_page.py from api.py, results.py, arguments.py, events.py and others. -->

```python
import limner

run = limner.train("photos/", base="glyph", trigger="sks cat", steps=300)
print(run.lora, run.validation_loss)
print(limner.judge(run).recommendation.reason)
limner.generate(run, "sks cat on a skateboard", strength=0.8)
```
Importing `limner` takes no time and loads no torch; that comes with the first call. Every name is typed. Two
programs to start from: `examples/train.py` watches a run and uses it, `examples/sweep.py` trains in a thread;
`notebooks/limner.ipynb` is [the whole line in a notebook](notebook.md).

On the command line, `--events` writes the same events as lines of JSON to stdout while `train`, `cache`,
`generate`, `caption`, `check` or `plan` works. The last line is the result, as `--json` prints it, and has no
`event`.

"""
FUNCTIONS = (
    "train",
    "train_iter",
    "view",
    "cache",
    "plan",
    "check",
    "caption",
    "generate",
    "judge",
    "instant",
    "preset",
)
KEYS = (
    (arguments.RecipeKeys, "Keys of the recipe"),
    (arguments.SamplingKeys, "Keys of `limner.generate`"),
    (arguments.JudgeKeys, "Keys of `limner.judge`"),
    (arguments.InstantKeys, "Keys of `limner.instant`"),
    (arguments.CaptionKeys, "Keys of `limner.caption`"),
)
FILE_KEYS = (
    (verbs.ConvertKeys, "Keys of `limner.lora.convert`"),
    (verbs.ExtractKeys, "Keys of `limner.lora.extract`"),
    (verbs.KindKeys, "Ranks and kinds, of `limner.lora.merge` and `resize`"),
)


def page() -> str:
    """The whole page."""
    parts = [HEAD, _prose(inspect.getdoc(api) or "").partition("\n\n")[2], "\n\n## Functions\n"]
    parts += [_function(f"limner.{name}", getattr(limner, name)) for name in FUNCTIONS]
    parts += [_table(kind, title) for kind, title in KEYS]
    parts.append("\n## LoRA files\n")
    parts += [_function(f"limner.lora.{name}", getattr(limner.lora, name)) for name in limner.lora.__all__]
    parts += [_table(kind, title) for kind, title in FILE_KEYS]
    parts += ["\n## Events\n\n", "| event | in JSON | fields | meaning |\n|---|---|---|---|\n"]
    parts += [_event(kind) for kind in events.KINDS]
    return "".join(parts)


def _function(name: str, function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    head, *sections = re.split(r"\n(?=(?:Args|Returns|Raises):\n)", text)
    lines = [f"\n### {name}\n\n```python\n{name}{_signature(function)}\n```\n", _prose(head.rstrip()), "\n"]
    for section in sections:
        title, _, body = section.partition("\n")
        body = inspect.cleandoc(f"\n{body}")
        if title == "Returns:":
            lines.append(f"\nReturns: {_prose(body)}\n")
            continue
        lines.append("\n" if title == "Args:" else "\nRaises:\n\n")
        entries = re.split(r"\n(?=\S)", body)
        lines += [f"- `{key}`: {_prose(value)}\n" for key, _, value in (e.partition(": ") for e in entries)]
    return "".join(lines)


def _signature(function: Callable[..., Any]) -> str:
    """As a person would write it: without types, which the docstring and editors tell."""
    items = inspect.signature(function).parameters.values()
    names, star = [], False
    for item in items:
        if item.kind is item.KEYWORD_ONLY and not star:
            names, star = [*names, "*"], True
        mark = "**" if item.kind is item.VAR_KEYWORD else ""
        default = "" if item.default is item.empty else f"={item.default!r}"
        names.append(f"{mark}{item.name}{default}")
    return f"({', '.join(names)})"


def _prose(text: str) -> str:
    """Docstring marks as Markdown has them; a literal block as code."""
    text = re.sub(r":(?:class|func):`([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"\n::\n\n((?:    .*\n|\n)+)", _block, text)


def _block(match: re.Match[str]) -> str:
    return f"\n```python\n{textwrap.dedent(match[1]).strip()}\n```\n"


def _fields(kind: type) -> list[tuple[str, str, str]]:
    """(name, type, meaning) of what stands in a class."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    rows = []
    for number, node in enumerate(tree.body):
        if isinstance(node, ast.AnnAssign):
            after = tree.body[number + 1] if number + 1 < len(tree.body) else None
            has_docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            meaning = after.value.value if has_docstring else ""  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
            rows.append((ast.unparse(node.target), ast.unparse(node.annotation), " ".join(meaning.split())))
    return rows


def _table(kind: type, title: str) -> str:
    rows = [
        f"| `{name}` | `{annotation}` | {_prose(meaning)} |\n" for name, annotation, meaning in _fields(kind)
    ]
    prose = _prose(inspect.getdoc(kind) or "")
    return f"\n### {title}\n\n{prose}\n\n| key | type | meaning |\n|---|---|---|\n" + "".join(rows)


def _event(kind: type[events.Event]) -> str:
    fields = [
        f"`{name}`: {meaning.rstrip('.')}" if meaning else f"`{name}`" for name, _, meaning in _fields(kind)
    ]
    prose = " ".join((inspect.getdoc(kind) or "").split())
    cells = (f"`{kind.__name__}`", f"`{events.name_of(kind)}`", "; ".join(fields), prose)
    return "| " + " | ".join(_prose(cell).replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
