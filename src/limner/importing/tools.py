"""The trainers whose configurations are read: how each is told.

Facts of their documented options and defaults, as data: kohya-ss/sd-scripts and musubi-tuner
(``setup_parser`` of their trainers), bmaltais/kohya_ss, ostris/ai-toolkit (config/examples),
Nerogar/OneTrainer (``TrainConfig.default_values``), bghira/SimpleTuner (documentation/OPTIONS.md),
modelscope/DiffSynth-Studio (``add_general_config``), huggingface/diffusers (examples, ``parse_args``).
"""

import re
from dataclasses import dataclass

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
    """

    name: str
    scripts: str = ""
    all_of: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()

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


TRAINERS = (
    OtherTrainer(
        name="ai-toolkit",
        all_of=("job", "process"),
    ),
    OtherTrainer(
        name="ai-toolkit",
        all_of=("job", "config"),
    ),
    OtherTrainer(
        name="kohya_ss",
        all_of=("LoRA_type",),
    ),
    OtherTrainer(
        name="OneTrainer",
        all_of=("training_method",),
        one_of=("base_model_name", "concept_file_name", "concepts", "model_type"),
    ),
    OtherTrainer(
        name="SimpleTuner",
        scripts=r"simpletuner|(^|/)train\.py$(?<!model_training/train\.py)",
        one_of=("data_backend_config", "model_family"),
    ),
    OtherTrainer(
        name="musubi-tuner",
        scripts=r"musubi|(flux_2|flux_kontext|qwen_image|qwen_image_21|zimage|krea2|ideogram4)_train_network\.py$",
        all_of=("dit",),
    ),
    OtherTrainer(
        name="musubi-tuner",
        all_of=("datasets",),
        one_of=("image_directory", "image_jsonl_file"),
    ),
    OtherTrainer(
        name="sd-scripts",
        all_of=("datasets",),
        one_of=("image_dir",),
    ),
    OtherTrainer(
        name="sd-scripts",
        scripts=r"train_network\.py$|fine_tune\.py$",
        one_of=("network_module", "network_dim", "subsets", "train_data_dir"),
    ),
    OtherTrainer(
        name="DiffSynth-Studio",
        scripts=r"model_training/.*train\.py$",
        one_of=("dataset_base_path",),
    ),
    OtherTrainer(
        name="diffusers",
        scripts=r"train_(dreambooth|text_to_image|controlnet)\w*\.py$",
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
