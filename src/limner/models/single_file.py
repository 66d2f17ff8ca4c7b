"""A base in one file, as its authors or trainers publish it: of which family it is, and what is in it.

How the checkpoints of a family look is in its ``facts.py``. Loads no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from limner.errors import BadBase
from limner.files import foreign
from limner.models.facts import FamilyFacts, SingleFile
from limner.models.registry import families

LORA = (
    r".*(lora_(up|down|A|B)\b|hada_w1|lokr_w1).*",
    "a LoRA, not a base. Name the base that it was trained on",
)
FOREIGN_PATTERNS = (
    (r"edm_mean", "of the kind of Playground 2.5, whose noise Limner does not know"),
    (r"conditioner\.embedders\.0\.model\..*", "SDXL's refiner, which reads no caption alone"),
    (r"cond_stage_model\.model\..*", "Stable Diffusion 2"),
    (r".*\bnerf_blocks\..*", "Chroma Radiance, which paints pixels without an autoencoder"),
    (r".*(scaled_fp8|scale_weight|weight_scale|absmax|quant_state).*", "quantised. Get it in bf16 or fp16"),
    (r"control_model\..*", "a ControlNet"),
    (
        r"(transformer_blocks|down_blocks)\.0\..*",
        "one part in diffusers' names. Name the folder of the whole base",
    ),
)
"""A tensor that tells what no family here trains."""


@dataclass(frozen=True)
class Single:
    """What a file holds."""

    path: Path
    pipeline: str
    layout: SingleFile
    """How such files of its family look."""
    parts: Mapping[str, str]
    """Part -> how the names of its tensors begin."""
    donor: str
    """Registered base that has what the file lacks."""
    sampler: Mapping[str, Any]
    """What the file says of its sampler, over the donor's config."""
    config: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    """Part -> what the file says of its config, over the donor's."""

    @property
    def name(self) -> str:
        """As the base is called: the name of the file, no path."""
        return self.path.name


def look(path: Path) -> Single:
    """Read the header of a checkpoint.

    Raises:
        BadBase: It is no safetensors file, torn, or of no family that Limner trains from one file.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
        if reason := foreign(head):
            raise BadBase(f"{path} {reason}")
        with safe_open(path, "np") as file:
            names, metadata = set(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadBase(
            f"{path} is no whole .safetensors file ({str(error)[:120]}). Download or copy it again."
        ) from error
    family, layout = _family(path, names)
    prefixes = {part: tensors.prefixes for part, tensors in layout.parts.items()}
    parts = {
        part: next(prefix for prefix in candidates if _begins(names, prefix))
        for part, candidates in prefixes.items()
        if any(_begins(names, prefix) for prefix in candidates)
    }
    return Single(
        path=path,
        pipeline=family.pipeline,
        layout=layout,
        parts=parts,
        donor=next(base for ending, base in layout.donors if _ends(names, ending)),
        sampler=_sampler(names, metadata),
        config={part: {key: _ends(names, ending)} for part, (key, ending) in layout.flags.items()},
    )


def single_file_titles() -> list[str]:
    """What people call the checkpoints that Limner trains from one file."""
    return [facts.single_file.title for facts in families().values() if facts.single_file]


def _begins(names: set[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _ends(names: set[str], ending: str) -> bool:
    return any(name.endswith(ending) for name in names)


def _family(path: Path, names: set[str]) -> tuple[FamilyFacts, SingleFile]:
    """The family of a checkpoint and how its files look.

    Raises:
        BadBase: It is none that is trained from one file; the message says what it is.
    """
    every_family = families().values()
    folder_only = [facts.folder_only for facts in every_family if facts.folder_only]
    for pattern, reason in (LORA, *folder_only, *FOREIGN_PATTERNS):
        if any(re.fullmatch(pattern, name) for name in names):
            raise BadBase(f"{path.name} is {reason}.")
    for facts in every_family:
        layout = facts.single_file
        if layout and layout.unless not in names and any(re.fullmatch(layout.mark, name) for name in names):
            return facts, layout
    titles = single_file_titles()
    raise BadBase(
        f"{path.name} has {len(names)} tensors, first {min(names, default='none')[:60]}: "
        f"it is no checkpoint of {', '.join(titles[:-1])} or {titles[-1]}. "
        "Other bases are read from a folder in diffusers layout."
    )


def _sampler(names: set[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Empty tensors by which trainers mark checkpoints that predict v, and end in pure noise."""
    settings: dict[str, Any] = {}
    if "v_pred" in names or metadata.get("modelspec.prediction_type") == "v":
        settings["prediction_type"] = "v_prediction"
    if "ztsnr" in names:
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return settings
