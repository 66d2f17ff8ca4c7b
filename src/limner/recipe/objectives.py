"""Keys that cannot stand together with what is learned: distillation, sliders, pairs, and a new word."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from limner.errors import BadRecipe
from limner.recipe.contradictions import refuse_idle
from limner.recipe.optimizers import optimizer_of

if TYPE_CHECKING:
    from limner.recipe.schema import Recipe

DISTILL_HAS_NO = ("noise_range", "time_density", "time_shift", "min_snr", "noise_offset")
"""Keys of [train] that say how noise is drawn: a student begins at the teacher's."""
UNFIT_PAIRS = ("data.flip", "data.caption_dropout")
"""Keys that part a picture from its caption and its start noise."""


def refuse_distillation(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where keys do not fit distillation, or [distill] is set for nothing."""
    train = recipe.train
    if train.objective != "distill":
        refuse_idle(recipe, "distill")
        return
    for key in DISTILL_HAS_NO:
        if getattr(train, key) != type(train).model_fields[key].default:
            raise BadRecipe(
                f'train.{key} is {getattr(train, key)}, and train.objective is "distill", which draws no '
                f"noise: it begins at the teacher's. Remove train.{key}."
            )
    distill, data = recipe.distill, recipe.data
    if distill.prompts and distill.steps > distill.teacher_steps:
        raise BadRecipe(
            f"distill.steps is {distill.steps} and distill.teacher_steps {distill.teacher_steps}: the "
            "student would take more steps than its teacher. Raise the second, or lower the first."
        )
    if isinstance(data.resolution, tuple):
        raise BadRecipe(
            f'data.resolution is {[*data.resolution]}, and train.objective is "distill": a picture has the '
            "size of its start noise. Set one resolution, the teacher's."
        )
    pairs = {
        "data.sets": data.sets,
        "data.flip": data.flip,
        "data.caption_dropout": data.caption_dropout,
        "data.tag_shuffle": data.tag_shuffle,
        "data.tag_dropout": data.tag_dropout,
        "prior": recipe.prior.wanted,
    }
    if extra := [name for name, value in pairs.items() if value]:
        raise BadRecipe(
            f'{extra[0]} is set, and train.objective is "distill": a picture goes with its own caption and '
            f"start noise. Remove {extra[0]}."
        )
    if recipe.sample.base != "own":
        raise BadRecipe(
            f'sample.base is "{recipe.sample.base}", and train.objective is "distill": samples show '
            "the student itself. Remove sample.base."
        )
    if recipe.sample.guidance is not None:
        raise BadRecipe(
            f'sample.guidance is {recipe.sample.guidance:g}, and train.objective is "distill": the student '
            "samples without guidance. Remove it; distill.teacher_guidance is the teacher's."
        )


SLIDER_HAS_NO = (
    *("data.sets", "data.trigger", "data.caption_dropout", "data.masks", "data.control"),
    *("data.tag_shuffle", "data.tag_dropout"),
)
"""Keys of what a slider has none of: its captions are the prompts of [slider], and it learns no image."""
NOT_HELD_OUT = ("data.validation_count", "data.validation_images")


def refuse_slider(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where keys do not fit a slider, or [slider] is set for nothing."""
    train, slider = recipe.train, recipe.slider
    if train.objective != "slider":
        refuse_idle(recipe, "slider")
        return
    if not slider.positive:
        raise BadRecipe(
            'train.objective is "slider", and slider.positive is empty: there is nowhere to slide to. Write '
            'its prompt, such as slider.positive = "[neutral], red".'
        )
    if slider.positive == slider.negative:
        raise BadRecipe(
            f'slider.positive and slider.negative are both "{slider.positive}": there is no way between '
            "them. Change one."
        )
    if train.method == "full" or recipe.lora.kind == "dora":
        key, value = ("train.method", "full") if train.method == "full" else ("lora.kind", "dora")
        raise BadRecipe(
            f'{key} is "{value}", and train.objective is "slider", whose change must be the same both ways. '
            f'Set {key} = "lora".'
        )
    for key in (*SLIDER_HAS_NO, *NOT_HELD_OUT, "prior"):
        value = recipe.prior.wanted if key == "prior" else getattr(recipe.data, key.partition(".")[2])
        if value:
            reason = "holds no image out" if key in NOT_HELD_OUT else "has its prompts alone"
            raise BadRecipe(f'{key} is set, and train.objective is "slider", which {reason}. Remove {key}.')


def refuse_pairs(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where pairs lack a side, or something is set that a difference cannot have."""
    if not recipe.pairs:
        return
    for number, pair in enumerate(recipe.pairs, 1):
        if pair.before is None or pair.after is None:
            side = "before" if pair.before is None else "after"
            raise BadRecipe(f"Pair {number} of [[pairs]] has no {side}. Name the folder of its images.")
        if pair.before == pair.after:
            raise BadRecipe(
                f"Pair {number} of [[pairs]] has {pair.before} before and after: there is no difference to "
                "learn. Name two folders."
            )
    train, data = recipe.train, recipe.data
    keys = {
        "data.sets": data.sets,
        "data.validation_images": data.validation_images,
        "data.control": data.control,
        "data.masks": data.masks,
        "lora.text_encoders": recipe.lora.text_encoders,
        "train.init": train.init,
        "train.adapter": train.adapter,
    }
    if unfit := [key for key, value in keys.items() if value]:
        raise BadRecipe(
            f"{unfit[0]} is set, and so are [[pairs]], of which the denoiser learns one LoRA beside another. "
            f"Remove {unfit[0]}, or the pairs."
        )
    choices = {"lora.kind": "lora", "train.method": "lora", "train.objective": "denoise"}
    values = dict(zip(choices, (recipe.lora.kind, train.method, train.objective), strict=True))
    for key, choice in choices.items():
        if values[key] != choice:
            raise BadRecipe(
                f'{key} is "{values[key]}", and there are [[pairs]], which want "{choice}". Set {key} = '
                f'"{choice}", or remove the pairs.'
            )


WORD = re.compile(r"[^\s/\\:*?\"|,;.()\[\]]+")
"""A new word: it names a file as well, and stands in prompts where marks have a meaning."""
READERS = ("diffusers", "comfyui", "kohya", "sd-scripts")
"""Tools that load embedding files."""


def refuse_inversion(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where keys do not fit textual inversion, or [inversion] is set for nothing."""
    table, train = recipe.inversion, recipe.train
    if train.method != "inversion":
        refuse_idle(recipe, "inversion")
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
