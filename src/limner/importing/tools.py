"""The trainers whose configurations are read: how each is told, and what it assumes where a file is silent.

Facts of their documented options and defaults, as data: kohya-ss/sd-scripts and musubi-tuner
(``setup_parser`` of their trainers), bmaltais/kohya_ss, ostris/ai-toolkit (config/examples),
Nerogar/OneTrainer (``TrainConfig.default_values``), bghira/SimpleTuner (documentation/OPTIONS.md),
modelscope/DiffSynth-Studio (``add_general_config``), huggingface/diffusers (examples, ``parse_args``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from limner.errors import BadUsage
from limner.importing.options import Configuration


@dataclass(frozen=True, kw_only=True)
class OtherTrainer:
    """One trainer.

    Attributes:
        name: What people call it.
        scripts: A pattern of the names of its training scripts; "" where it has none.
        all_of: Keys of which a file of it has each.
        one_of: Keys of which it has at least one; () for no more than ``all_of``.
        defaults: What it assumes where a file is silent and Limner assumes something else, by our key.
        times: How it samples timesteps then, of bases whose names fit ``flow``.
        flow: A pattern of such bases.
        of_families: The same as ``defaults``, of one family: these stand above.
    """

    name: str
    scripts: str = ""
    all_of: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    times: Mapping[str, Any] = field(default_factory=dict)
    flow: str = r"flux|kontext|chroma|qwen|krea|z.?image|ideogram|sd3"
    of_families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def fits(self, configuration: Configuration) -> bool:
        """Whether a configuration is one of its own."""
        if configuration.script:
            return bool(self.scripts and re.search(self.scripts, configuration.script.replace("\\", "/")))
        keys = configuration.leaves | {option.key.partition(".")[0] for option in configuration.options}
        return (
            bool(self.all_of or self.one_of)
            and keys.issuperset(self.all_of)
            and (not self.one_of or not keys.isdisjoint(self.one_of))
        )


UNIFORM = {"train.time_density": "uniform", "train.time_shift": 1.0}
SIGMOID = {"train.time_density": "sigmoid", "train.time_shift": 1.0}
FLUX_1 = r"flux.?1|flux-(dev|schnell|kontext)|chroma"
KOHYA_TIMES = {**UNIFORM, "train.time_shift": 3.0}
"""``timestep_sampling = sigma``: uniform, and moved by ``discrete_flow_shift``, which is 3."""
KOHYA = {"lora.rank": 4, "lora.alpha": 1.0, "train.steps": 1600, "train.weight_decay": 0.01}
TOOLKIT = {"lora.rank": 4, "lora.alpha": 1.0, "train.weight_decay": 0.01}
DIFFUSERS = {
    **{
        name: {"lora.alpha": 4.0}
        for name in ("flux", "flux-kontext", "flux2", "flux2-dev", "qwen-image", "z-image", "ideogram4")
    },
    "krea2": {"lora.rank": 32, "lora.alpha": 32.0},
}
"""Family -> defaults of its own example. The others have no ``--lora_alpha``: their alpha is the rank."""

TRAINERS = (
    OtherTrainer(
        name="ai-toolkit",
        all_of=("job", "process"),
        defaults=TOOLKIT,
        times=SIGMOID,
    ),
    OtherTrainer(
        name="ai-toolkit",
        all_of=("job", "config"),
        defaults=TOOLKIT,
        times=SIGMOID,
    ),
    OtherTrainer(
        name="kohya_ss",
        all_of=("LoRA_type",),
        defaults=KOHYA,
        times=KOHYA_TIMES,
        flow=FLUX_1,
    ),
    OtherTrainer(
        name="OneTrainer",
        all_of=("training_method",),
        one_of=("base_model_name", "concept_file_name", "concepts", "model_type"),
        defaults={"lora.rank": 16, "lora.alpha": 1.0, "train.weight_decay": 0.01},
        times=UNIFORM,
    ),
    OtherTrainer(
        name="SimpleTuner",
        scripts=r"simpletuner|(^|/)train\.py$(?<!model_training/train\.py)",
        one_of=("data_backend_config", "model_family"),
        defaults={"train.weight_decay": 0.01},
        times={**SIGMOID, "train.time_shift": 3.0},
    ),
    OtherTrainer(
        name="musubi-tuner",
        scripts=r"musubi|(flux_2|flux_kontext|qwen_image|qwen_image_21|zimage|krea2|ideogram4)_train_network\.py$",
        all_of=("dit",),
        defaults=KOHYA,
    ),
    OtherTrainer(
        name="musubi-tuner",
        all_of=("datasets",),
        one_of=("image_directory", "image_jsonl_file"),
        defaults=KOHYA,
    ),
    OtherTrainer(
        name="sd-scripts",
        all_of=("datasets",),
        one_of=("image_dir",),
        defaults=KOHYA,
        times=KOHYA_TIMES,
        flow=FLUX_1,
    ),
    OtherTrainer(
        name="sd-scripts",
        scripts=r"train_network\.py$|fine_tune\.py$",
        one_of=("network_module", "network_dim", "subsets", "train_data_dir"),
        defaults=KOHYA,
        times=KOHYA_TIMES,
        flow=FLUX_1,
    ),
    OtherTrainer(
        name="DiffSynth-Studio",
        scripts=r"model_training/.*train\.py$",
        one_of=("dataset_base_path",),
        defaults={"lora.rank": 32, "train.weight_decay": 0.01},
        times=KOHYA_TIMES,
        flow=FLUX_1,
    ),
    OtherTrainer(
        name="diffusers",
        scripts=r"train_(dreambooth|text_to_image|controlnet)\w*\.py$",
        defaults={"lora.rank": 4, "train.weight_decay": 1e-4},
        of_families=DIFFUSERS,
        times=UNIFORM,  # their schedulers move times by resolution in sampling alone
        flow=r"flux|kontext|qwen",
    ),
)
"""The first that fits is taken."""


EQUAL_VALUES: dict[str, tuple[tuple[object, ...], str]] = {
    "noise_scheduler": (("flowmatch",), "The base's own."),
    "sampler": (("flowmatch",), "The base's own sampler."),
    "sample_sampler": (("euler", "flowmatch"), "The base's own sampler."),
    "model_prediction_type": (("raw",), "The velocity itself is learned."),
    "train_unet": ((True,), "The denoiser is trained."),
    "use_ema": ((True,), "See its decay."),
    "walk_seed": ((True,), "Each sample has the next seed."),
    "loss_type": (("l2", "mse"), "Mean squared error."),
    "init_lora_weights": (("true", True, "gaussian"), "The update starts at zero."),
    "device": (("cuda", "cuda:0", "auto"), "The GPU that is there."),
    "lr_scheduler_num_cycles": ((1,), "One cycle."),
    "lr_power": ((1, 1.0), ""),
    "sigmoid_scale": ((1, 1.0), ""),
    "clip_skip": ((1,), ""),
    "xformers": (("xformers", "sdpa"), ""),
}
"""Key -> values by which a run is as it is here, and why."""

FORMAT = ("job", "type", "version", "__version", "is_flux", "is_xl", "is_v2", "is_v3", "is_sd", "arch") + (
    "model_flavour",
    "lora_base_model",
    "training_comment",
    "general",
)
"""Keys that say what the file or the base is, which the base says itself."""

LOADING = ("persistent_data_loader_workers", "max_data_loader_n_workers", "dataloader_num_workers") + (
    "dataset_num_workers",
    "dataloader_threads",
)
"""Keys of how images are loaded: here each is encoded once."""


def trainer_of(configuration: Configuration) -> OtherTrainer:
    """The trainer that a configuration is for.

    Raises:
        BadUsage: None of those that are known.
    """
    for trainer in TRAINERS:
        if trainer.fits(configuration):
            return trainer
    names = ", ".join(dict.fromkeys(trainer.name for trainer in TRAINERS))
    reason = f"runs {configuration.script}" if configuration.script else "has none of their keys"
    raise BadUsage(
        f"{configuration.path} is no configuration of a trainer that is known here ({names}): it {reason}. "
        "Name the file that its trainer reads, or the script that starts it."
    )
