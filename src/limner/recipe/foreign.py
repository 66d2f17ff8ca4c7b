"""Configs of other programs, told by their keys: somebody who comes from one may name it as a recipe."""

import re
from pathlib import Path

from limner.recipe.toml import LARGEST

CONFIGS = (
    ("a config of ai-toolkit", ("job", "config", "process")),
    (
        "a dataset config of kohya's sd-scripts or musubi-tuner",
        ("datasets", "image_dir|image_directory|subsets"),
    ),
    ("a config of OneTrainer", ("training_method", "base_model_name|model_type")),
    ("a concepts file of OneTrainer", ("include_subdirectories|image_variations", "path", "text")),
    ("a dataset config of SimpleTuner", ("id", "type", "instance_data_dir|dataset_type|caption_strategy")),
    ("a config of SimpleTuner", ("model_family|data_backend_config",)),
    ("a dataset config of diffusion-pipe", ("directory", "path", "num_repeats|resolutions|enable_ar_bucket")),
    ("a config of diffusion-pipe", ("micro_batch_size_per_gpu", "adapter|model")),
    ("a config of EveryDream", ("data_root", "resume_ckpt|project_name")),
    ("a concepts list of DreamBooth", ("instance_prompt", "instance_data_dir")),
    (
        "a config of kohya's sd-scripts",
        ("pretrained_model_name_or_path|network_module", "train_data_dir|network_dim"),
    ),
    ("a config of DeepSpeed", ("zero_optimization",)),
    ("a config of accelerate", ("compute_environment",)),
    ("a workflow of ComfyUI", ("last_node_id|class_type",)),
    ("an adapter's config of peft", ("peft_type",)),
)
"""What a file is called, and the keys that it has; of keys with a bar between them one will do."""

IMPORTED = frozenset(
    (
        "a config of ai-toolkit",
        "a dataset config of kohya's sd-scripts or musubi-tuner",
        "a config of OneTrainer",
        "a config of SimpleTuner",
        "a config of kohya's sd-scripts",
    )
)
"""What ``limner import`` reads by itself ..."""
PARTS = frozenset(("a concepts file of OneTrainer", "a dataset config of SimpleTuner"))
"""... and what it reads together with the config that names it."""

INDENT = 100
"""Characters before a key that are looked at."""
OTHER_SUFFIXES = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".jsonl": "JSON lines"}


def config_name(path: Path) -> str:
    """What a file is that is no recipe, such as "a config of ai-toolkit"; empty where nothing tells.

    Args:
        path: Any file; of a large one the first megabyte is looked at.
    """
    with path.open("rb") as file:
        text = file.read(LARGEST).decode("utf-8", "replace")
    for name, keys in CONFIGS:
        if all(_has_key(key, text) for key in keys):
            return name
    suffix = path.suffix.lower()
    return f"{OTHER_SUFFIXES[suffix]}, and a recipe is TOML" if suffix in OTHER_SUFFIXES else ""


def remedy(name: str, path: Path) -> str:
    """What to do with a file that ``config_name`` has told: one sentence."""
    if name in IMPORTED:
        return f"Make a recipe of it: limner import {path}"
    if name in PARTS:
        return "Make a recipe of the config that names it: limner import CONFIG"
    return "Name a folder of images, a recipe.toml, or a run folder."


def _has_key(names: str, text: str) -> bool:
    """Whether one of the names stands where TOML, JSON or YAML have keys and tables."""
    for match in re.finditer(rf"""(?:{names})["\]]*\s*(?:[:=]|$)""", text, re.MULTILINE):
        # Not by the pattern: a text of a million brackets would take hours.
        before = text[max(0, match.start() - INDENT) : match.start()]
        rest = before.rstrip(' \t\r\n\f\v-["')
        gap = before[len(rest) :]
        if not rest or rest[-1] in "{," or "\n" in gap or "[" in gap:
            return True
    return False
