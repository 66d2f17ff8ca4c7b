"""What other trainers assume where a file is silent and Limner would assume something else: facts, as data.

Of ``setup_parser`` and ``library/*_train_utils.py`` of sd-scripts, ``training/parser_common.py`` of
musubi-tuner, ``toolkit/config_modules.py`` of ai-toolkit, ``TrainConfig.default_values`` of OneTrainer, the
field registry of SimpleTuner, ``diffusion/parsers.py`` and ``flow_match.py`` of DiffSynth-Studio,
``parse_args`` of diffusers' examples. What is not here is as ours: a constant schedule, AdamW, no noise
offset, no min-SNR, one image a step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from limner.importing.book import Book
from limner.importing.options import ForeignOption


@dataclass(frozen=True, kw_only=True)
class Silence:
    """What one trainer assumes.

    Attributes:
        values: Our key -> value, of every base.
        of_families: The same of one family; these stand above.
        batch: Images of a micro-batch.
        epochs: How many, where neither they nor steps are set; None where steps are assumed.
        warmup: Steps of warm-up of a schedule that has one.
        differs: Family, or "" for all -> what of a silent file cannot be had.
    """

    values: Mapping[str, Any]
    of_families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch: int = 1
    epochs: int | None = None
    warmup: int = 0
    differs: Mapping[str, str] = field(default_factory=dict)


FLUX = ("flux", "flux-kontext", "flux2", "flux2-dev")
QWEN = ("qwen-image", "qwen-image-edit", "qwen-image-edit-plus")
FLOWS = (*FLUX, *QWEN, "chroma", "z-image", "krea2", "ideogram4", "hidream", "sd3")


def times(density: str, shift: float | str, *families: str) -> dict[str, dict[str, Any]]:
    """The same law of timesteps for families."""
    return {name: {"train.time_density": density, "train.time_shift": shift} for name in families}


KOHYA = {"lora.rank": 4, "lora.alpha": 1.0, "train.steps": 1600, "train.weight_decay": 0.01}
SCALED_LOSS = (
    "The prediction is scaled by the noise (model_prediction_type sigma_scaled) before the loss; here the "
    "velocity itself is learned, which is its raw."
)
SD_SCRIPTS_TIMES = {
    **times("uniform", 3.0, "flux", "chroma"),  # timestep_sampling = sigma, moved by discrete_flow_shift
    **times("uniform", 1.0, "sd3"),
    **times("sigmoid", 1.0, "anima"),
}
GUIDANCE = {"train.guidance": 3.5}
SD_SCRIPTS_FAMILIES = {**SD_SCRIPTS_TIMES, "flux": {**SD_SCRIPTS_TIMES["flux"], **GUIDANCE}}
DIFFUSERS_TIMES = {
    # their schedulers move times by resolution in sampling alone; a shift that is fixed moves them always
    **times("uniform", 1.0, *FLUX, *QWEN, "krea2"),
    **times("uniform", "auto", "z-image", "hidream"),
}
DIFFUSERS_ALPHAS = {
    **{name: {"lora.alpha": 4.0} for name in (*FLUX, *QWEN, "z-image", "ideogram4")},
    "krea2": {"lora.rank": 32, "lora.alpha": 32.0},
}
"""Family -> those of its own example. The others have no ``--lora_alpha``: their alpha is the rank."""
DIFFUSERS_OTHERS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("flux", "flux-kontext", "flux2-dev"), GUIDANCE),
    "sdxl": {"data.resolution": 1024},
}
WEIGHTED_LOSS = "It weights the loss by the timestep, most in the middle; here all timesteps weigh alike."

SILENCE: Mapping[str, Silence] = {
    "sd-scripts": Silence(
        values={**KOHYA, "train.learning_rate": 2e-6},
        of_families=SD_SCRIPTS_FAMILIES,
        differs=dict.fromkeys(("flux", "chroma"), SCALED_LOSS),
    ),
    "kohya_ss": Silence(values=KOHYA, of_families=SD_SCRIPTS_FAMILIES),
    "musubi-tuner": Silence(
        values={**KOHYA, "train.learning_rate": 2e-6},
        # timestep_sampling = sigma, and discrete_flow_shift is 1; Ideogram 4 has its own, which is ours
        of_families=times("uniform", 1.0, *(name for name in FLOWS if name != "ideogram4")),
    ),
    "ai-toolkit": Silence(
        values={"lora.rank": 4, "lora.alpha": 1.0, "train.weight_decay": 0.01, "train.learning_rate": 1e-6}
        | {"train.steps": 1000, "data.resolution": 512},
        of_families=times("sigmoid", 1.0, *FLOWS),
    ),
    "OneTrainer": Silence(
        values={"lora.rank": 16, "lora.alpha": 1.0, "train.weight_decay": 0.01}
        | {"train.learning_rate": 3e-6, "data.resolution": 512},
        of_families=times("uniform", 1.0, *FLOWS),
        epochs=100,
        warmup=200,
    ),
    "SimpleTuner": Silence(
        values={"train.weight_decay": 0.01, "train.learning_rate": 4e-7, "train.clip": 2.0}
        | {"data.caption_dropout": 0.1, "data.resolution": 1024, "lora.rank": 16},
        of_families=times("sigmoid", 3.0, *FLOWS),
        batch=4,
        epochs=1,
    ),
    "DiffSynth-Studio": Silence(
        values={"lora.rank": 32, "train.weight_decay": 0.01, "data.resolution": 1024},
        of_families={
            **times("uniform", 3.0, "flux", "flux-kontext", "z-image"),
            **times("uniform", math.exp(0.8), *QWEN, "flux2", "flux2-dev"),
        },
        epochs=1,
        differs={"": WEIGHTED_LOSS},
    ),
    "diffusers": Silence(
        values={"lora.rank": 4, "train.weight_decay": 1e-4, "data.resolution": 512},
        of_families={
            name: {
                **DIFFUSERS_TIMES.get(name, {}),
                **DIFFUSERS_ALPHAS.get(name, {}),
                **DIFFUSERS_OTHERS.get(name, {}),
            }
            for name in {*DIFFUSERS_TIMES, *DIFFUSERS_ALPHAS, *DIFFUSERS_OTHERS}
        },
        batch=4,
        epochs=1,
        warmup=500,
    ),
}  # fmt: skip
"""Trainer -> what it assumes."""
SWITCHES = {SCALED_LOSS: "model_prediction_type"}
"""Sentence -> the key that says otherwise."""


def fill(book: Book, keys: frozenset[str]) -> None:
    """Write what a trainer assumes of keys that nothing has set.

    Args:
        book: After every rule.
        keys: Last parts of all keys of the file.
    """
    trainer, family = str(book.facts["trainer"]), str(book.facts.get("family", ""))
    silence = SILENCE[trainer]
    text = f"The default of {trainer}; the file is silent."
    values = {**silence.values, **silence.of_families.get(family, {})}
    if silence.epochs and "images" not in book.facts:
        values.pop("train.steps", None)
    if silence.warmup and book.facts.get("warms up"):
        values["train.warmup"] = silence.warmup
    law = {key: value for key, value in values.items() if key.startswith("train.time_")}
    law = {key: value for key, value in law.items() if key not in book.changes}
    if law:
        book.set(ForeignOption("(train.time_density)", None), law, text)
    for key, value in values.items():
        is_counted = key == "train.steps" and bool(book.facts.get("images"))
        if key not in book.changes and not is_counted:
            book.set(ForeignOption(f"({key})", None), {key: value}, text)
    for name in ("", family):
        sentence = silence.differs.get(name) if name or "" in silence.differs else None
        if sentence and SWITCHES.get(sentence) not in keys:
            book.row(ForeignOption("(train.loss)", None), "cannot be had", sentence)
