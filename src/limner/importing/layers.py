"""Which layers another trainer adapts: those that its file names, or its own where the file names none."""

import re
from collections.abc import Mapping
from typing import Any

from limner.importing.book import Book, is_set, number
from limner.importing.options import ForeignOption
from limner.importing.trained import (
    BLOCKS,
    ENCODER,
    ENCODERS,
    FEED,
    FUSED,
    IDLE,
    LINEAR,
    NO_ENCODER,
    PROJECTION,
    STOPS,
    TrainedLayers,
)
from limner.importing.trained import silent as by_default
from limner.models.registry import recognised

HINTS = (
    ("flux-kontext", r"kontext"),
    ("flux2", r"flux.?2|klein"),
    ("chroma", r"chroma"),
    ("flux", r"flux"),
    ("qwen-image-edit", r"qwen.?image.?edit"),
    ("qwen-image", r"qwen"),
    ("z-image", r"z.?image"),
    ("krea2", r"krea"),
    ("ideogram4", r"ideogram"),
    ("hidream", r"hidream"),
    ("anima", r"anima(?!te)"),
    ("sdxl", r"sdxl|stable.?diffusion.?xl|is_xl"),
    ("sd3", r"sd3|stable.?diffusion.?3|is_v3"),
    ("sd15", r"sd1|stable.?diffusion.?v?1|(?:^|/)train_(?:network|(?:dreambooth|text_to_image)_lora)\.py$"),
)  # fmt: skip
"""Family -> what tells it: a name of a base, of a script, or of a kind of model."""
KINDS = ("model_type", "model_family", "arch", "LoRA_type", "is_flux", "is_xl", "is_v3", "sdxl")
"""Keys that say the family."""


def family(book: Book) -> None:
    """The family of the base, by its name, else by the script or what the file says of its kind."""
    base = str(book.changes.get("base", "")).replace("\\", "/")
    if match := recognised(base.rpartition("/")[2]) or recognised(base):
        book.facts["family"] = match[0].name
        return
    kinds = [option for option in book.options if option.leaf in KINDS and is_set(option.value)]
    words = (option.leaf if option.value is True else str(option.value) for option in kinds)
    for word in (base.rpartition("/")[2], *words, str(book.facts.get("script", ""))):
        for name, form in HINTS:
            if re.search(form, word.replace("\\", "/"), re.IGNORECASE):
                book.facts["family"] = name
                return
    if base.count("/") == 1 and not base.startswith((".", "/", "~")):
        note = "Its name tells no family that is trained here; limner plan reads its configs."
        book.row(ForeignOption("(base)", base), "unknown", note)


def silent(book: Book) -> TrainedLayers | None:
    """What the trainer adapts of this family by itself; None where that is not known."""
    return by_default(str(book.facts.get("trainer", "")), str(book.facts.get("family", "")))


DIFFSYNTH = {
    "flux": {
        "a_to_qkv": ("transformer_blocks.*.attn.to_q", "transformer_blocks.*.attn.to_k")
        + ("transformer_blocks.*.attn.to_v",),
        "b_to_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "a_to_out": ("attn.to_out.0",),
        "b_to_out": ("attn.to_add_out",),
        "ff_a.0": ("ff.net.0.proj",),
        "ff_a.2": ("ff.net.2",),
        "ff_b.0": ("ff_context.net.0.proj",),
        "ff_b.2": ("ff_context.net.2",),
        "proj_out": ("single_transformer_blocks.*.proj_out",),
        "norm.linear": ("single_transformer_blocks.*.norm.linear",),
        "norm1_a.linear": ("norm1.linear",),
        "norm1_b.linear": ("norm1_context.linear",),
        "to_qkv_mlp": ("single_transformer_blocks.*.attn.to_q", "single_transformer_blocks.*.attn.to_k")
        + ("single_transformer_blocks.*.attn.to_v", "single_transformer_blocks.*.proj_mlp"),
    },
    "krea2": {
        "wq": ("attn.to_q",),
        "wk": ("attn.to_k",),
        "wv": ("attn.to_v",),
        "wo": ("attn.to_out.0",),
        "gate": ("attn.to_gate", "ff.gate"),
        "up": ("ff.up",),
        "down": ("ff.down",),
        "first": ("img_in",),
        "tmlp.0": ("time_embed.linear_1",),
        "tmlp.2": ("time_embed.linear_2",),
        "projector": ("text_fusion.projector",),
        "txtmlp.1": ("txt_in.linear_1",),
        "txtmlp.3": ("txt_in.linear_2",),
        "last.linear": ("final_layer.linear",),
        "tproj.1": ("time_mod_proj",),
    },
    "ideogram4": {
        "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
        "attention.o": ("attention.to_out.0",),
        "adaln_modulation": ("layers.*.adaln_modulation",),
    },
}  # fmt: skip
"""Family -> DiffSynth-Studio's name of a layer -> ours. Its other families have the names of diffusers."""
SHARED = ("a_to_qkv", "b_to_qkv", "to_qkv_mlp", "attention.qkv")
"""Those of its layers that are several here."""
NO_LAYER = (
    "Its own list, q,k,v,o,ffn.0,ffn.2, is of a video model: on this base it stops. All linear layers here."
)
SIMPLE_TUNER = {
    "all": ("attention",),
    "all+ffs": LINEAR,
    "all+ffs+embedder": (*LINEAR, "x_embedder"),
    "context": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    "context+ffs": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", *FEED[2:]),
    "ai-toolkit": BLOCKS,
    "tiny": ("single_transformer_blocks.7.proj_out", "single_transformer_blocks.20.proj_out"),
    "nano": ("single_transformer_blocks.7.proj_out",),
}
"""``flux_lora_target`` -> ``lora.targets``."""
HOLDERS = {"sd15": "", "sdxl": "", "z-image": "layers.*", "hidream": "_stream_blocks.*"}
"""Family -> what stands before a layer that ai-toolkit may adapt; of others, any block."""
UNETS = ("sd15", "sdxl")
"""Families whose denoisers have convolutions that a LoRA is put on."""
NAMED_AS_DIFFUSERS = ("sd15", "sdxl", "sd3", "flux", "flux-kontext", "qwen-image", "z-image", "hidream")
"""Families whose layers ai-toolkit calls as diffusers does."""
ONE_TRAINER_FORMS = {
    r"^(?=.*attention)(?!.*refiner).*": "layers.*.attention.*",
    r"^(?=.*feed_forward)(?!.*refiner).*": "layers.*.feed_forward.*",
}
"""Regular expressions in presets of OneTrainer -> patterns."""


def layers(book: Book) -> None:
    """The layers that a file names, then those that its trainer adapts by itself, and text encoders."""
    for option in book.each("lora_target_modules", "lora_layers", "peft_lora_target_modules"):
        _listed(book, option)
    for option in book.each("flux_lora_target"):
        targets = SIMPLE_TUNER.get(str(option.value))
        if targets:
            book.set(option, {"lora.targets": targets})
        else:
            book.row(option, "cannot be had", f"Not among {', '.join(SIMPLE_TUNER)}: set lora.targets.")
    _containing(book)
    _filtered(book)
    _arguments(book)
    _convolutions(book)
    default = silent(book)
    if book.facts.get("trainer") == "DiffSynth-Studio" and "lora.targets" not in book.changes:
        book.row(ForeignOption("(layers)", None), "cannot be had", NO_LAYER)
    if default is None or book.facts.get("adapts") is False:
        return
    _encoders(book, default)
    text = f"The default of {book.facts['trainer']}; the file is silent."
    if "lora.targets" not in book.changes:
        book.set(ForeignOption("(lora.targets)", None), {"lora.targets": default.targets}, text)
    if default.differs:
        _differences(book, default)


def _differences(book: Book, default: TrainedLayers) -> None:
    encoders = book.changes.get("lora.text_encoders", ())
    idle = bool(book.facts.get("encoders are off"))
    sentences = {
        FUSED: not book.facts.get("split"),
        IDLE: "text_encoder" in encoders,
        PROJECTION: "text_encoder_2" in encoders,
        NO_ENCODER: not idle,
        STOPS: bool(encoders),
    }
    text = " ".join(
        sentence for sentence, holds in sentences.items() if holds and sentence in default.differs
    )
    if text:
        book.row(ForeignOption("(layers)", None), "cannot be had", text)


def _listed(book: Book, option: ForeignOption) -> None:
    """A list of endings of names, as peft has it."""
    words = option.value if isinstance(option.value, list) else str(option.value).split(",")
    names = [str(word).strip() for word in words if str(word).strip()]
    table: Mapping[str, tuple[str, ...]] = {}
    if book.facts.get("trainer") == "DiffSynth-Studio":
        table = DIFFSYNTH.get(str(book.facts.get("family")), {})
    targets = tuple(dict.fromkeys(target for name in names for target in table.get(name, (name,))))
    if "all-linear" in names:
        targets = ("*",)
    book.set(option, {"lora.targets": targets}, outcome="kept" if list(targets) == names else "translated")
    if any(name in SHARED for name in names):
        book.row(ForeignOption("(layers)", None), "cannot be had", FUSED)


def _containing(book: Book) -> None:
    """ai-toolkit's words of which a name has one, or none."""
    has_names = book.facts.get("family") in NAMED_AS_DIFFUSERS
    default = silent(book)
    for option in book.take("only_if_contains", "ignore_if_contains"):
        words = option.value if isinstance(option.value, list) else [option.value]
        if not is_set(option.value) or not is_set(words):
            book.row(option, "off")
        elif not has_names or default is None:
            book.row(option, "cannot be had", "Its layers have other names: set lora.targets.")
        elif option.leaf == "only_if_contains":
            book.set(option, {"lora.targets": tuple(_within(book, str(word)) for word in words)})
        else:
            targets = book.changes.get("lora.targets", default.targets)
            exclusions = tuple(f"!*{_bare(str(word))}*" for word in words)
            book.set(option, {"lora.targets": (*targets, *exclusions)})


def _convolutions(book: Book) -> None:
    """ai-toolkit's rank of convolutions, which its window writes for bases that have none as well."""
    if book.facts.get("trainer") != "ai-toolkit":
        return
    has_none = book.facts.get("family", "sdxl") not in UNETS
    for option in book.numbers("conv"):
        if has_none:
            book.row(option[0], "off", "This base has no convolutions.")
        else:
            book.set(option[0], {"lora.conv_rank": int(option[1])})
            book.changes.setdefault("lora.targets", ("*",))
    for option in book.take("conv_alpha"):
        if has_none or not is_set(option.value):
            book.row(option, "off")
        else:
            _strength(book, option, number(option.value), int(book.changes.get("lora.conv_rank", 1)))


def _bare(word: str) -> str:
    """A word of a name without the name of the model."""
    return re.sub(r"^(?:transformer|unet|lora_unet|diffusion_model)[._]", "", word)


def _within(book: Book, word: str) -> str:
    bare, start = _bare(word), HOLDERS.get(str(book.facts["family"]), "transformer_blocks.*")
    return f"*{bare}*" if "blocks" in bare or bare.startswith("layers") else f"*{start}{bare}*"


def _filtered(book: Book) -> None:
    """OneTrainer's filter: words or regular expressions of which a name fits one."""
    names = ("layer_filter", "layer_filter_preset", "layer_filter_regex")
    for option in [option for option in book.options if option.leaf in names and "." in option.key]:
        book.options.remove(option)
        book.row(option, "the plan decides")  # those of its quantization
    is_regex = book.peek("layer_filter_regex") is True
    for option in book.take("layer_filter"):
        words = [word.strip() for word in str(option.value or "").split(",") if word.strip()]
        forms = [ONE_TRAINER_FORMS.get(word) if is_regex else f"*{word}*" for word in words]
        patterns = tuple(form for form in forms if form)
        if not words:
            book.row(option, "off")
        elif len(patterns) == len(words):
            book.set(option, {"lora.targets": patterns})
        else:
            book.row(option, "cannot be had", "A regular expression: set lora.targets, with * and !.")
    for option in book.take("layer_filter_preset", "layer_filter_regex"):
        book.row(option, "translated" if is_set(option.value) else "off", "See the filter of layers.")


def _arguments(book: Book) -> None:
    """``network_args`` of kohya's trainers."""
    for option in book.each("network_args"):
        words = option.value if isinstance(option.value, list) else str(option.value).split()
        parts = [str(word).partition("=") for word in words]
        values = {name.strip(): value.strip() for name, _, value in parts}
        for name, value in values.items():
            _argument(book, ForeignOption(f"{option.key}: {name}", value), values)
    for option in book.take("train_blocks", "split_qkv", "train_t5xxl"):  # of kohya_ss
        if is_set(option.value):
            _argument(book, option, {})
        else:
            book.row(option, "off")


def _argument(book: Book, argument: ForeignOption, values: Mapping[str, str]) -> None:
    name, value = argument.key.rpartition(" ")[2], str(argument.value)
    if name == "conv_dim" and value.isdigit() and int(value):
        book.set(argument, {"lora.conv_rank": int(value), "lora.targets": "locon"}, "Convolutions as well.")
        if "conv_alpha" not in values:
            _strength(book, ForeignOption(f"{argument.key} (alpha)", None), 1.0, int(value))
    elif name == "conv_alpha" and values.get("conv_dim", "").isdigit():
        _strength(book, argument, number(value), int(values["conv_dim"]))
    elif name == "train_blocks" and value in ("single", "double", "all"):
        blocks = {"single": "single_transformer_blocks.*", "double": "transformer_blocks.*"}
        targets = (blocks[value],) if value in blocks else BLOCKS
        book.set(argument, {"lora.targets": targets})
    elif name == "split_qkv":
        book.facts["split"] = value.lower() == "true"
        book.row(argument, "always so", "q, k and v have each its own pair.")
    elif name == "train_t5xxl":
        book.facts["t5"] = value.lower() == "true"
        book.row(argument, "translated", "See lora.text_encoders.")
    else:
        book.row(argument, "cannot be had", "No such argument here.")


def _strength(book: Book, option: ForeignOption, alpha: float | None, rank: int) -> None:
    """Of convolutions alpha / rank is one number with that of linear layers here."""
    strength, other = _ratio(book), None if alpha is None else alpha / rank
    if other is not None and _is_close(strength, other):
        book.row(option, "always so", f"Its strength is {other:g} there as here.")
    else:
        text = "unknown" if other is None else f"{other:g}"
        note = f"Strength {text} there; alpha / rank, {strength:g}, here."
        book.row(option, "cannot be had", note)


def _ratio(book: Book) -> float:
    """Alpha / rank of linear layers by kohya's and ai-toolkit's keys, with their defaults."""
    alpha, rank = (("linear_alpha", "alpha"), ("linear", "rank"))
    keys = (("network_alpha", *alpha), ("network_dim", *rank))
    return (number(book.peek(*keys[0])) or 1.0) / (number(book.peek(*keys[1])) or 4.0)


def _is_close(first: float, other: float) -> bool:
    """Whether two strengths are one."""
    return abs(first - other) <= 1e-6 * max(abs(first), abs(other))


def _encoders(book: Book, default: TrainedLayers) -> None:
    """Text encoders: all that the trainer adapts by itself, less those that the file switches off."""
    trainer = book.facts["trainer"]
    if trainer in ("sd-scripts", "kohya_ss"):
        names = _of_kohya(book, default)
    elif trainer == "OneTrainer":
        names = _of_one_trainer(book, default)
    else:
        names = _asked(book)
    if names:
        text = f"{trainer} trains them unless it is told not to."
        switch = ForeignOption("(lora.text_encoders)", None)
        if "lora.text_encoders" not in book.changes:
            book.set(switch, {"lora.text_encoders": names}, text)


def _of_kohya(book: Book, default: TrainedLayers) -> tuple[str, ...]:
    off = False
    for option in book.each("network_train_unet_only"):
        off = True
        book.row(option, "always so", "The denoiser alone is trained.")
    rates = [number(book.peek(name)) for name in ("text_encoder_lr", "unet_lr")]
    if book.facts["trainer"] == "kohya_ss" and rates[0] == 0 and rates[1] != 0:  # its window says it so
        off = True
        for option in book.take("text_encoder_lr"):
            book.row(option, "off", "The denoiser alone is trained.")
    book.facts["encoders are off"] = off
    names = default.encoders if not off else ()
    t5 = {"flux": "text_encoder_2", "sd3": "text_encoder_3"}.get(str(book.facts.get("family")))
    return (*names, t5) if names and t5 and book.facts.get("t5") else names


def _of_one_trainer(book: Book, default: TrainedLayers) -> tuple[str, ...]:
    switches = {}
    for option in [
        option for option in book.options if re.fullmatch(r"text_encoder(_\d)?\.train", option.key)
    ]:
        book.options.remove(option)
        name = option.key.partition(".")[0]
        switches[name] = is_set(option.value)
        exists = name in default.encoders
        outcome: Any = "off" if not switches[name] else "translated" if exists else "cannot be had"
        note = "See lora.text_encoders." if exists else "This text encoder cannot be trained here."
        book.row(option, outcome, note if switches[name] else "")
    book.facts["encoders are off"] = not switches.get("text_encoder", True)
    return tuple(name for name in default.encoders if switches.get(name, True))


def _asked(book: Book) -> tuple[str, ...]:
    """Where a switch asks for them: all that its trainer knows of the family."""
    encoders = {"sd15": ENCODER, "sdxl": ENCODERS, "sd3": ENCODERS, "flux": ENCODER}.get(
        str(book.facts.get("family")), ()
    )
    for option in book.take("train_text_encoder", "text_encoder_train"):
        if not is_set(option.value):
            book.row(option, "off")
        elif not encoders:
            book.row(option, "cannot be had", "This family's text encoder cannot be trained here.")
        else:
            book.set(option, {"lora.text_encoders": encoders})
            if book.facts["trainer"] == "diffusers":
                note = "There the attention of text encoders is adapted; here their feed-forward layers too."
                book.row(ForeignOption("(layers)", None), "cannot be had", note)
    return ()
