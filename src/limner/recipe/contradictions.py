"""Keys that cannot stand together, each said in one line with the remedy."""

from typing import TYPE_CHECKING

from limner.errors import BadRecipe
from limner.recipe.optimizers import optimizer_of

if TYPE_CHECKING:
    from limner.recipe.schema import Data, Recipe
    from limner.recipe.train import Lora, Train

SLACK = 0.005
"""How far from 1 the sum of shares may be: thirds are written with two digits."""
SHAPES = {
    "schedule_cycles": "cosine_with_restarts",
    "schedule_power": "polynomial",
    "schedule_decay": "warmup_stable_decay",
}
"""Key of [train] -> the only schedule that has it."""


def refuse_layers(lora: "Lora") -> None:
    """Raise ``BadRecipe`` where keys of [lora] are for another kind, or for text encoders that are none."""
    for key in ("factor", "full_matrix"):
        value = getattr(lora, key)
        if lora.kind != "lokr" and value != type(lora).model_fields[key].default:
            raise BadRecipe(
                f'lora.{key} is {value}, which only a LoKr has, and lora.kind is "{lora.kind}". Set '
                f'lora.kind = "lokr", or remove lora.{key}.'
            )
    if lora.text_encoder_layers is not None and not lora.text_encoders:
        raise BadRecipe(
            f"lora.text_encoder_layers is {lora.text_encoder_layers}, but no text encoder is trained. "
            'Set lora.text_encoders = ["text_encoder"], or remove lora.text_encoder_layers.'
        )


def refuse_resolutions(data: "Data") -> None:
    """Raise ``BadRecipe`` where resolutions are alike, or their shares do not fit them."""
    sides, shares = data.resolution, data.resolution_shares
    if isinstance(sides, tuple) and len(set(sides)) < len(sides):
        raise BadRecipe(
            f"data.resolution is {[*sides]}, with one of them twice. Remove it; "
            "data.resolution_shares says how often each is drawn."
        )
    count = len(sides) if isinstance(sides, tuple) else 1
    if shares and len(shares) != count:
        raise BadRecipe(
            f"data.resolution_shares has {len(shares)} shares, and data.resolution {count} "
            f"{'sizes' if count > 1 else 'size'}. Write one share for each size, or remove the shares."
        )
    if shares and abs(sum(shares) - 1) > SLACK:
        raise BadRecipe(
            f"data.resolution_shares add up to {sum(shares):g}. Write shares whose sum is 1, such as 0.25, "
            "0.25, 0.5."
        )


def refuse_tags(data: "Data") -> None:
    """Raise ``BadRecipe`` where captions are to have variants, and nothing makes any."""
    is_set = data.tag_variants != type(data).model_fields["tag_variants"].default
    if is_set and not data.tag_shuffle and not data.tag_dropout:
        raise BadRecipe(
            f"data.tag_variants is {data.tag_variants}, and tags are neither shuffled nor dropped. Set "
            "data.tag_shuffle = true, or remove data.tag_variants."
        )


SHORT_FORM = ("images", "validation_images", "control")
"""Keys of [data] that each of several sets has for itself."""


def refuse_sets(data: "Data") -> None:
    """Raise ``BadRecipe`` where sets contradict the short form, or each other."""
    if not data.sets:
        return
    for key in SHORT_FORM:
        if getattr(data, key) != type(data).model_fields[key].default:
            raise BadRecipe(
                f"data.{key} is set, and so are {len(data.sets)} data.sets, each with its own. Move it into "
                "one of [[data.sets]], or remove the sets."
            )
    for number, entry in enumerate(data.sets, 1):
        if entry.images is None:
            raise BadRecipe(f"Set {number} of data.sets has no images. Name their folder.")
        if entry.share is not None and entry.repeats != 1:
            raise BadRecipe(
                f"Set {number} of data.sets has share {entry.share:g} and repeats {entry.repeats}: both say "
                "how often it is drawn. Remove one of the two."
            )
    triggers = [entry.trigger.lower() for entry in data.sets if entry.trigger]
    if twice := [trigger for trigger in triggers if triggers.count(trigger) > 1]:
        raise BadRecipe(
            f'Two of data.sets have the trigger "{twice[0]}": they would be learned as one thing. Give each '
            "its own, or put the images into one folder."
        )
    shares = [entry.share for entry in data.sets if entry.share is not None]
    if shares and len(shares) < len(data.sets):
        raise BadRecipe(f"{len(shares)} of {len(data.sets)} data.sets have a share. Give each one, or none.")
    if shares and abs(sum(shares) - 1) > SLACK:
        raise BadRecipe(f"The shares of data.sets add up to {sum(shares):g}. Write shares whose sum is 1.")


def refuse_schedule(train: "Train") -> None:
    """Raise ``BadRecipe`` where the keys of a schedule do not fit each other."""
    if train.warmup and train.warmup >= train.steps:
        raise BadRecipe(
            f"train.warmup is {train.warmup} and train.steps is {train.steps}: the full learning rate "
            f"is never reached. Set train.warmup below {train.steps}, for instance to {train.steps // 20}."
        )
    for key, schedule in SHAPES.items():
        value, default = getattr(train, key), type(train).model_fields[key].default
        if value != default and train.schedule != schedule:
            raise BadRecipe(
                f"train.{key} is {value}, which only {schedule} has, and train.schedule is "
                f'"{train.schedule}". Set train.schedule = "{schedule}", or remove train.{key}.'
            )
    if train.schedule_decay and train.warmup + train.schedule_decay > train.steps:
        raise BadRecipe(
            f"train.warmup is {train.warmup} and train.schedule_decay {train.schedule_decay}, of "
            f"{train.steps} steps. Their sum must be at most train.steps."
        )


def refuse_optimizer(train: "Train") -> None:
    """Raise ``BadRecipe`` where the optimizer does not fit the other keys of [train]."""
    optimizer = optimizer_of(train.optimizer)
    keys = {"lr": "train.learning_rate", "weight_decay": "train.weight_decay"}
    keys |= {"betas": "train.betas"} if optimizer.betas else {}
    for name in train.optimizer_args:
        if name in keys:
            raise BadRecipe(
                f"train.optimizer_args has {name}, which is {keys[name]} here. Set that, and remove {name}."
            )
    if optimizer.finds_rate and train.learning_rate < 0.01:
        raise BadRecipe(
            f"train.learning_rate is {train.learning_rate:g} with {optimizer.name}, which finds the rate "
            "itself and multiplies it by this. Set train.learning_rate = 1.0."
        )
    if optimizer.averages and train.schedule != "constant":
        raise BadRecipe(
            f'train.schedule is "{train.schedule}" with the {optimizer.name} optimizer, which replaces '
            'schedules. Set train.schedule = "constant", or train.optimizer = "adamw".'
        )
    if optimizer.averages and train.ema:
        raise BadRecipe(
            f"train.ema is {train.ema:g} with the {optimizer.name} optimizer, which averages the "
            'weights already. Set train.ema = 0.0, or train.optimizer = "adamw".'
        )


def refuse_loss(train: "Train") -> None:
    """Raise ``BadRecipe`` where the keys of what the loss sees do not fit each other."""
    low, high = train.noise_range
    if low >= high:
        raise BadRecipe(
            f"train.noise_range is [{low:g}, {high:g}], which holds no level of noise. Write the lower first."
        )
    fields = type(train).model_fields
    for key in ("huber_c", "huber_schedule"):
        value = getattr(train, key)
        if value != fields[key].default and train.loss not in ("huber", "smooth_l1"):
            raise BadRecipe(
                f'train.{key} is {value}, and train.loss is "{train.loss}", which has none. Set train.loss = '
                f'"huber", or remove train.{key}.'
            )


def refuse_patience(train: "Train") -> None:
    """Raise ``BadRecipe`` where early stopping could never come before the last step."""
    interval = train.validation_every or train.save_every
    evaluations = train.steps // interval
    if train.patience is not None and evaluations <= train.patience:
        raise BadRecipe(
            f"train.patience is {train.patience}, and {train.steps} steps have {evaluations} evaluations, "
            f"one each {interval} steps: none can end it. Lower train.validation_every or train.patience."
        )


def refuse_method(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where a full fine-tune is wanted, and something that only a LoRA has."""
    if recipe.train.method != "full":
        return
    if recipe.limits.matmul_precision == "8bit":
        raise BadRecipe(
            'train.method is "full", which trains every weight, and limits.matmul_precision '
            '"8bit" is for '
            'frozen ones. Set limits.matmul_precision = "full", or train.method = "lora".'
        )
    for key, field in type(recipe.lora).model_fields.items():
        value = getattr(recipe.lora, key)
        if value != field.default:
            raise BadRecipe(
                f'train.method is "full", which trains every weight of the denoiser, and lora.{key} '
                f'is {value}. Remove lora.{key}, or set train.method = "lora".'
            )
    keys = {
        "train.init": recipe.train.init,
        "train.adapter": recipe.train.adapter,
        "sample.lora_on": recipe.sample.lora_on,
        "sample.base": recipe.sample.base,
    }
    for key, value in keys.items():
        if value not in ("", "both", "own"):
            raise BadRecipe(
                f'train.method is "full", which makes no LoRA, and {key} is "{value}". Remove {key}.'
            )
    if tools := [tool for tool in recipe.export.for_ if tool != "diffusers"]:
        raise BadRecipe(
            f'train.method is "full", which makes a whole model, and export.for names "{tools[0]}", '
            f'which gets a LoRA. Remove "{tools[0]}"; afterwards `limner lora extract` makes a LoRA '
            "of the difference, and `limner lora convert` turns it."
        )


PREDICTOR_HAS_NO = (
    *("lora.kind", "lora.alpha", "lora.ranks", "lora.rates", "lora.conv_rank", "lora.dropout"),
    *("lora.text_encoders", "train.init", "train.adapter", "data.masks", "data.control", "data.flip"),
    *("sample.base", "export.for_"),
)
"""Keys that mean nothing where a predictor is trained."""
CLASS_IMAGES = ("prior.kind", "prior.images")
"""Nor do these, unless experts are to keep what they do to those images."""


OWNERS = {"instant": "method", "inversion": "method", "distill": "objective", "slider": "objective"}
"""Table that counts for one value of a key of [train] alone, which is its name -> that key."""


def refuse_idle(recipe: "Recipe", table: str) -> None:
    """Raise ``BadRecipe`` where a table is set for another ``train.method`` or ``train.objective``."""
    owner = OWNERS[table]
    section, choice = getattr(recipe, table), getattr(recipe.train, owner)
    for key, field in type(section).model_fields.items():
        if getattr(section, key) != field.default:
            raise BadRecipe(
                f'{table}.{key} is set, and train.{owner} is "{choice}". Set train.{owner} = "{table}", or '
                f"remove {table}.{key}."
            )


def refuse_instant(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where a key does not fit the training of a predictor, or [instant] is idle."""
    train = recipe.train
    if train.method != "instant":
        refuse_idle(recipe, "instant")
        return
    for path in PREDICTOR_HAS_NO if recipe.prior.kind == "experts" else (*PREDICTOR_HAS_NO, *CLASS_IMAGES):
        table, _, key = path.partition(".")
        section = getattr(recipe, table)
        if getattr(section, key) != type(section).model_fields[key].default:
            name = path.removesuffix("_")
            raise BadRecipe(
                f'{name} is set, and train.method is "instant", which trains a predictor and has no such '
                f"thing. Remove {name}."
            )
    if train.objective == "distill":
        raise BadRecipe(
            'train.objective is "distill", and train.method "instant" trains a predictor. Remove one.'
        )
    if recipe.prior.prompts and recipe.instant.encoders:
        raise BadRecipe(
            "prior.prompts are set, from which the base generates what a static LoRA learns, and "
            "instant.encoders is not empty. Remove one of the two."
        )
    group = recipe.instant.group
    if train.batch % group:
        raise BadRecipe(
            f"train.batch is {train.batch} and instant.group {group}: a step has whole groups. Set "
            f"train.batch = {-(-train.batch // group) * group}, or another instant.group."
        )
    if recipe.instant.static_steps >= train.steps > 0:
        raise BadRecipe(
            f"instant.static_steps is {recipe.instant.static_steps} of {train.steps} train.steps: the "
            "predictor would never look at a picture. Lower it."
        )


def refuse_kept(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where images whose LoRAs keep their effect have none, or are not there."""
    prior, instant = recipe.prior, recipe.instant
    if prior.kind != "experts":
        return
    if recipe.train.method != "instant" or not instant.experts:
        raise BadRecipe(
            'prior.kind is "experts", which keeps what instant.experts do, and there are none. Set '
            'train.method = "instant" and name predictors in instant.experts, or remove prior.kind.'
        )
    if prior.images is None:
        raise BadRecipe(
            'prior.kind is "experts", and prior.images is unset. Name a folder of images whose LoRAs are to '
            "keep their effect, or remove prior.kind."
        )
    if prior.batch % instant.group:
        raise BadRecipe(
            f"prior.batch is {prior.batch} and instant.group {instant.group}: a step has whole groups. Set "
            f"prior.batch = {-(-prior.batch // instant.group) * instant.group}, or another instant.group."
        )


def refuse_prior(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where the keys of [prior] do not fit each other, or those of other tables."""
    prior, triggers = recipe.prior, recipe.data.triggers
    if prior.class_word and prior.kind != "teacher":
        raise BadRecipe(
            f'prior.class_word is "{prior.class_word}", which the teacher reads, and prior.kind is '
            f'"{prior.kind}". Set prior.kind = "teacher", or remove prior.class_word.'
        )
    if prior.kind not in ("teacher", "blank"):
        return
    if prior.images is not None or prior.prompts:
        raise BadRecipe(
            f'prior.kind is "{prior.kind}", which needs no class images, and prior.'
            f'{"prompts" if prior.prompts else "images"} names some. Remove it, or set prior.kind = "images".'
        )
    if recipe.train.method == "full":
        raise BadRecipe(
            f'prior.kind is "{prior.kind}", and train.method "full" changes the base that is the teacher. '
            'Set prior.kind = "images", or train.method = "lora".'
        )
    if prior.kind == "blank" and recipe.data.caption_dropout:
        raise BadRecipe(
            f'prior.kind is "blank", which keeps the empty caption as it is, and data.caption_dropout '
            f"{recipe.data.caption_dropout:g} trains it. Remove one of the two."
        )
    if prior.kind == "teacher" and not all(entry.trigger for entry in recipe.data.folders):
        key = "the trigger of one of data.sets" if recipe.data.sets else "data.trigger"
        raise BadRecipe(
            f'prior.kind is "teacher", and captions without the trigger are what it keeps, but {key} '
            'is empty. Set it, or prior.kind = "blank".'
        )
    words = [("prior.class_word", prior.class_word)]
    words += [("class_word of data.sets", entry.class_word) for entry in recipe.data.sets]
    for key, word in words if prior.kind == "teacher" else ():
        for trigger in triggers:
            if trigger.lower() in word.lower():
                raise BadRecipe(
                    f'{key} is "{word}", with the trigger "{trigger}" in it. Name the kind of thing alone.'
                )


def refuse_masks(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where masks would do nothing, or there is no loss for them."""
    masks, floor = recipe.data.masks, recipe.train.mask_floor
    if masks is None and floor != type(recipe.train).model_fields["mask_floor"].default:
        raise BadRecipe(
            f"train.mask_floor is {floor:g}, and there are no masks. Name them as data.masks, or remove it."
        )
    if masks is not None and floor == 1:
        raise BadRecipe(
            f'train.mask_floor is 1, so that black counts as white does, and data.masks is "{masks}". Lower '
            "the one, or remove the other."
        )
    if masks is not None and recipe.train.objective == "distill":
        raise BadRecipe(
            f'data.masks is "{masks}", and train.objective is "distill", which learns a teacher\'s pictures '
            "as a whole. Remove data.masks."
        )


def refuse_adapter(recipe: "Recipe") -> None:
    """Raise ``BadRecipe`` where keys of [lora] do not fit those of [train]."""
    lora, train = recipe.lora, recipe.train
    if train.init and lora.kind != "lora":
        raise BadRecipe(
            f'train.init is "{train.init}", which a LoRA starts from, and lora.kind is "{lora.kind}". Set '
            'lora.kind = "lora", or remove train.init.'
        )
    if train.adapter and lora.kind == "dora":
        raise BadRecipe(
            f'train.adapter is "{train.adapter}", and lora.kind is "dora", which depends on the weights that '
            'it is trained on: it would not fit the base without the adapter. Set lora.kind = "lora", or '
            "remove train.adapter."
        )
    if lora.rates and optimizer_of(train.optimizer).finds_rate:
        raise BadRecipe(
            f"lora.rates has {len(lora.rates)} patterns, and {train.optimizer} finds one learning rate for "
            'everything. Remove lora.rates, or set train.optimizer = "adamw".'
        )
    if train.text_encoder_learning_rate is not None and not lora.text_encoders:
        raise BadRecipe(
            f"train.text_encoder_learning_rate is {train.text_encoder_learning_rate:g}, but no text "
            'encoder is trained. Set lora.text_encoders = ["text_encoder"], or remove it.'
        )
