"""What cannot stand beside textual inversion, each said in one line with the remedy."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from limner.errors import BadRecipe
from limner.recipe.optimizers import optimizer_of

if TYPE_CHECKING:
    from limner.recipe.schema import Recipe

WORD = re.compile(r"[^\s/\\:*?\"|,;.()\[\]]+")
"""A new word: it names a file as well, and stands in prompts where marks have a meaning."""
READERS = ("diffusers", "comfyui", "kohya", "sd-scripts")
"""Tools that load embedding files."""


def refuse_inversion(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where keys do not fit textual inversion, or [inversion] is set for nothing."""
    table, train = recipe.inversion, recipe.train
    if train.method != "inversion":
        for key, field in type(table).model_fields.items():
            if getattr(table, key) != field.default:
                raise BadRecipe(
                    f'inversion.{key} is set, and train.method is "{train.method}". Set train.method = '
                    f'"inversion", or remove inversion.{key}.'
                )
        return
    _refuse_words(recipe)
    _refuse_optimizer(recipe)
    if train.objective != "denoise":
        raise BadRecipe(
            f'train.objective is "{train.objective}", which teaches a denoiser, and train.method is '
            '"inversion". Set train.method = "lora", or train.objective = "denoise".'
        )
    if table.until < 1 and not table.with_lora:
        raise BadRecipe(
            f"inversion.until is {table.until:g}, and nothing is trained after it. Set inversion.with_lora = "
            "true, or lower train.steps."
        )
    if not table.with_lora:
        for key, value in _of_loras(recipe):
            raise BadRecipe(
                f'train.method is "inversion", which trains token vectors alone, and {key} is {value}. '
                f"Remove {key}, or set inversion.with_lora = true."
            )
    tools = [tool for tool in recipe.export.for_ if tool not in READERS]
    if tools and not table.with_lora:
        raise BadRecipe(
            f'train.method is "inversion", and export.for names "{tools[0]}", which reads no embedding. '
            f'Remove "{tools[0]}".'
        )


def _refuse_words(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where the trigger is no new word, or more than one."""
    triggers = recipe.data.triggers
    if len(triggers) > 1:
        raise BadRecipe(
            f'train.method is "inversion", which learns one word, and data.sets have {len(triggers)} '
            "triggers. Set data.trigger, and none in the sets."
        )
    if triggers and not all(entry.trigger for entry in recipe.data.folders):
        raise BadRecipe(
            f'train.method is "inversion", and one of data.sets has no trigger: nothing would be learned of '
            f'it. Set data.trigger = "{triggers[0]}".'
        )
    if triggers and not WORD.fullmatch(triggers[0]):
        word = re.sub(r"[^a-z0-9]+", "-", triggers[0].lower()).strip("-") or "word"
        raise BadRecipe(
            f'data.trigger is "{triggers[0]}", and textual inversion learns one word without blanks and '
            f'marks. Set data.trigger = "<{word}>".'
        )


def _refuse_optimizer(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where an optimizer does not go with the vectors."""
    optimizer = optimizer_of(recipe.train.optimizer)
    if optimizer.finds_rate and recipe.inversion.rate is not None:
        raise BadRecipe(
            f"inversion.rate is {recipe.inversion.rate:g}, and {recipe.train.optimizer} finds one learning "
            'rate for everything. Remove inversion.rate, or set train.optimizer = "adamw".'
        )
    if optimizer.averages:
        raise BadRecipe(
            f'train.optimizer is "{recipe.train.optimizer}", which averages steps, and textual inversion '
            'scales its vectors after each. Set train.optimizer = "adamw", with train.ema if you like.'
        )


def _of_loras(recipe: "Recipe") -> Iterator[tuple[str, Any]]:
    """Keys that mean nothing where token vectors alone are trained, and their values."""
    for key, field in type(recipe.lora).model_fields.items():
        value = getattr(recipe.lora, key)
        if value != field.default:
            yield f"lora.{key}", value
    if recipe.train.init:
        yield "train.init", f'"{recipe.train.init}"'
    if recipe.sample.base != "own":
        yield "sample.base", f'"{recipe.sample.base}"'
    if recipe.sample.lora_on != "both":
        yield "sample.lora_on", f'"{recipe.sample.lora_on}"'
    if recipe.data.caption_dropout:
        yield "data.caption_dropout", f"{recipe.data.caption_dropout:g}, whose empty captions teach no vector"
    if recipe.prior.wanted:
        yield "prior", "set, whose captions teach no vector"


def word_facts(recipe: "Recipe") -> list[Any]:
    """What may not change within a run that learns a word; nothing of any other."""
    if recipe.train.method != "inversion":
        return []
    table = recipe.inversion
    return [*recipe.data.triggers, table.tokens, table.init, list(table.encoders), table.with_lora]
