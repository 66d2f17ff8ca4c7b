"""The verbs by name. What a verb needs is imported when it is asked for, and ``--help`` asks for all."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import typer
from typer.core import TyperGroup

from limner.imports import imported

VERBS = {
    "init": "limner.cli.init:register",
    "train": "limner.cli.train:register",
    "cache": "limner.cli.cache:register",
    "caption": "limner.cli.caption:register",
    "export": "limner.cli.export:register",
    "launch": "limner.cli.launch:register",
    "publish": "limner.cli.publish:register",
    "generate": "limner.cli.generate:register",
    "demo": "limner.cli.demo:register",
    "doctor": "limner.cli.demo:register",
    "schema": "limner.cli.init:register_schema",
    "check": "limner.cli.check:register",
    "judge": "limner.cli.judge:register",
    "fetch": "limner.cli.fetch:register",
    "plan": "limner.cli.plan:register",
    "import": "limner.cli.importer:register",
    "status": "limner.cli.status:register",
    "runs": "limner.cli.status:register",
    "ask": "limner.cli.status:register",
    "studio": "limner.cli.studio:register",
    "instant": "limner.cli.instant:register",
    "lora": "limner.cli.lora:register",
    "jobs": "limner.cli.jobs:register",
}
"""Verb -> the function that adds it to the command line, in the order of ``limner --help``."""


class Verbs(Mapping[str, Any]):
    """Verb -> its command. To list the names imports none of them."""

    def __init__(self) -> None:
        self._commands: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._commands:
            app = typer.Typer(rich_markup_mode=None)
            imported(VERBS[name])(app)
            self._commands |= typer.main.get_group(app).commands
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class VerbGroup(TyperGroup):
    """The command ``limner``, with the verbs of the table."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = cast("Any", Verbs())
