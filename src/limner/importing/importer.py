"""The verb ``import``: another trainer's configuration as a recipe, and a row for each of its lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import BadRecipe
from limner.importing.book import Book, ImportRow, Outcome, is_set, number
from limner.importing.documented import meaning
from limner.importing.options import LAUNCHER, MORE_FILES, ForeignOption, has_variable, read
from limner.importing.rules import RULES
from limner.importing.silence import SILENCE, fill
from limner.importing.tools import EQUAL_VALUES, FORMAT, LOADING, trainer_of
from limner.recipe import aliases
from limner.recipe.schema import Recipe
from limner.recipe.spellings import ABSENT, ALWAYS, LIMITS_KEYS, PLANNER_KEYS
from limner.recipe.toml import change, write

OUTCOMES: Mapping[str, Outcome] = {
    **dict.fromkeys(" ".join([PLANNER_KEYS, *LIMITS_KEYS.values()]).split(), "the plan decides"),
    **{name: "always so" for names in ALWAYS.values() for name in names.split()},
    **dict.fromkeys(ABSENT.split(), "cannot be had"),
}
"""A key that has no counterpart here -> what that means."""


@dataclass(frozen=True)
class Imported:
    """What became of a configuration.

    Attributes:
        trainer: Whose it is.
        recipe: What says the same here.
        rows: One for each option, in the order of the file, then the trainer's own defaults.
    """

    trainer: str
    recipe: Recipe
    rows: tuple[ImportRow, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Outcome -> number of rows."""
        outcomes = [row.outcome for row in self.rows]
        return {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}


def import_recipe(path: Path) -> Imported:
    """Translate the configuration of another trainer.

    Args:
        path: Its TOML, YAML or JSON file, or a script with its command.

    Raises:
        BadUsage: The file is unreadable, or of no trainer that is known here.
    """
    configuration = read(path)
    trainer = trainer_of(configuration)
    order = {option.key: index for index, option in enumerate(configuration.options)}
    silence = SILENCE[trainer.name]
    facts = {"trainer": trainer.name, "script": configuration.script}
    book = Book(list(configuration.options), facts=facts | {"batch": silence.batch, "epochs": silence.epochs})
    for option in configuration.absent_files:
        book.row(option, "cannot be had", "That file is not here: what it says is missing.")
    book.options = [option for option in book.options if option not in configuration.absent_files]
    if configuration.script:
        _variables(book)
    for rule in RULES:
        rule(book)
    for option in book.options:
        _spelled(book, option)
    fill(book, configuration.leaves)
    recipe = _built(book)
    rows = sorted(book.rows, key=lambda row: order.get(row.key.partition(":")[0], len(order)))
    return Imported(trainer.name, recipe, tuple(rows))


def _variables(book: Book) -> None:
    """Values of a command line that are variables of the shell, whose values nobody knows here."""
    for option in [option for option in book.options if has_variable(option.value)]:
        book.options.remove(option)
        note = "A variable that this script does not set: write its value in the recipe."
        book.row(option, "cannot be had", note)


def _spelled(book: Book, option: ForeignOption) -> None:
    """An option that no rule took: by its spelling, or with the answer to it."""
    leaf = option.leaf
    values, note = EQUAL_VALUES.get(leaf, ((), ""))
    if option.key.startswith(f"{LAUNCHER}."):
        book.row(option, "the plan decides", "An option of the launcher.")
    elif option.value in values:
        book.row(option, "always so", note)
    elif leaf in MORE_FILES:
        book.row(option, "kept", "Read as well.")
    elif leaf in FORMAT:
        book.row(option, "always so", "The base says itself of which family it is.")
    elif leaf in LOADING:
        book.row(option, "always so", "Images are encoded once, before the first step.")
    elif not is_set(option.value) and leaf not in aliases.SPELLINGS:
        book.row(option, "off")
    elif leaf in OUTCOMES:
        answer = "" if OUTCOMES[leaf] == "the plan decides" else aliases.ANSWERS[leaf]
        book.row(option, OUTCOMES[leaf], answer.removesuffix(" Remove it.").removesuffix(" Remove the key."))
    else:
        _looked_up(book, option)


def _looked_up(book: Book, option: ForeignOption) -> None:
    leaf, reason = option.leaf, ""
    in_samples = "sample" in option.key.split(".")[:-1]
    for key in (option.key, f"sample.{leaf}" if in_samples else leaf, leaf):
        try:
            (assignment,) = aliases.own({key: option.value}, Recipe).items()
        except BadRecipe as error:
            reason = reason if "Unknown recipe key" in str(error) else str(error)
            continue
        if assignment[1] is None:
            book.row(option, "off")
        else:
            book.set(
                option,
                dict([assignment]),
                outcome="kept" if assignment[1] == option.value else "translated",
            )
        return
    has_answer = leaf in aliases.ANSWERS or leaf in aliases.SPELLINGS
    if not has_answer and (other := meaning(leaf)):
        is_off = not is_set(option.value) or number(option.value) == 0
        book.row(option, *(("off", "") if is_off else other))
        return
    note = reason or aliases.ANSWERS.get(leaf, "Check whether it matters to you.")
    book.row(option, "cannot be had" if has_answer else "unknown", note)


def _built(book: Book) -> Recipe:
    """The recipe with every value that it can have; those that contradict it become rows."""
    try:
        return change(Recipe(), book.changes)
    except BadRecipe:
        pass
    recipe = Recipe()
    pending: Mapping[str, Any] = dict(book.changes)
    reasons: dict[str, str] = {}
    for _ in range(2):  # a value may need another one that stands after it
        conflicts: dict[str, Any] = {}
        for key, value in pending.items():
            try:
                recipe = change(recipe, {key: value})
            except BadRecipe as error:
                conflicts[key], reasons[key] = value, str(error)
        pending = conflicts
    for key, value in pending.items():
        text = f"{key} = {write(value)}"
        for index, row in enumerate(book.rows):
            if text in row.becomes.split(", "):
                book.rows[index] = ImportRow(row.key, row.value, "cannot be had", "", reasons[key])
    return recipe
