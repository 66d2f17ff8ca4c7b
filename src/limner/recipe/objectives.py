"""Keys that cannot stand together with what is learned: distillation, sliders, and differences of pairs."""

from typing import TYPE_CHECKING

from limner.errors import BadRecipe

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
        for key, field in type(recipe.distill).model_fields.items():
            if getattr(recipe.distill, key) != field.default:
                raise BadRecipe(
                    f'distill.{key} is set, and train.objective is "{train.objective}". Set train.objective '
                    f'= "distill", or remove distill.{key}.'
                )
        return
    for key in DISTILL_HAS_NO:
        if getattr(train, key) != type(train).model_fields[key].default:
            raise BadRecipe(
                f'train.{key} is {getattr(train, key)}, and train.objective is "distill", which draws no '
                f"noise: it begins at the teacher's. Remove train.{key}."
            )
    data = recipe.data
    if isinstance(data.resolution, tuple):
        raise BadRecipe(
            f'data.resolution is {[*data.resolution]}, and train.objective is "distill": a picture has the '
            "size of its start noise. Set one resolution, the teacher's."
        )
    pairs = {
        "data.sets": data.sets,
        "data.flip": data.flip,
        "data.caption_dropout": data.caption_dropout,
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


SLIDER_HAS_NO = ("data.sets", "data.trigger", "data.caption_dropout", "data.masks", "data.control")
"""Keys of what a slider has none of: its captions are the prompts of [slider], and it learns no image."""
NOT_HELD_OUT = ("data.validation_count", "data.validation_images")


def refuse_slider(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where keys do not fit a slider, or [slider] is set for nothing."""
    train, slider = recipe.train, recipe.slider
    if train.objective != "slider":
        for key, field in type(slider).model_fields.items():
            if getattr(slider, key) != field.default:
                raise BadRecipe(
                    f'slider.{key} is set, and train.objective is "{train.objective}". Set train.objective = '
                    f'"slider", or remove slider.{key}.'
                )
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
