"""A base in one file, as its authors or trainers publish it: of which family it is, and what is in it.

Names of the authors' parts: CompVis latent-diffusion and Stability-AI generative-models (Stable Diffusion 1
and XL), black-forest-labs/flux (FLUX.1), and ComfyUI's "all in one" files of FLUX.1. Loads no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from limner.errors import BadBase
from limner.files import foreign

FLUX_MARK = "double_blocks.0.img_attn.qkv.weight"
UNET = "model.diffusion_model."
SD_VAE = "first_stage_model."

LAYOUTS = {
    "FluxPipeline": {
        "transformer": (UNET, ""),
        "vae": ("vae.",),
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.t5xxl.transformer.",),
    },
    "StableDiffusionXLPipeline": {
        "unet": (UNET,),
        "vae": (SD_VAE,),
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    "StableDiffusionPipeline": {
        "unet": (UNET,),
        "vae": (SD_VAE,),
        "text_encoder": ("cond_stage_model.transformer.",),
    },
}
"""Pipeline -> part -> how the names of its tensors may begin."""

MARKS = (
    (rf"({re.escape(UNET)})?{re.escape(FLUX_MARK)}", "FluxPipeline"),
    (re.escape(f"{UNET}label_emb.0.0.weight"), "StableDiffusionXLPipeline"),
    (re.escape(f"{UNET}input_blocks.0.0.weight"), "StableDiffusionPipeline"),
)
"""A tensor that tells the pipeline, the first that fits."""

OTHERS = (
    (
        r".*(lora_(up|down|A|B)\b|hada_w1|lokr_w1).*",
        "a LoRA, not a base. Name the base that it was trained on",
    ),
    (r"edm_mean", "of the kind of Playground 2.5, whose noise Limner does not know"),
    (r"conditioner\.embedders\.0\.model\..*", "SDXL's refiner, which reads no caption alone"),
    (r"cond_stage_model\.model\..*", "Stable Diffusion 2"),
    (r".*joint_blocks\.0\..*", "Stable Diffusion 3, which is read from a folder in diffusers layout"),
    (r".*double_stream_modulation_img\..*", "FLUX.2, which is read from a folder in diffusers layout"),
    (r".*distilled_guidance_layer\..*", "Chroma"),
    (r".*(scaled_fp8|scale_weight|weight_scale|absmax|quant_state).*", "quantised. Get it in bf16 or fp16"),
    (r"control_model\..*", "a ControlNet"),
    (
        r"(transformer_blocks|down_blocks)\.0\..*",
        "one part in diffusers' names. Name the folder of the whole base",
    ),
)
"""A tensor that tells what Limner does not train from one file."""


@dataclass(frozen=True)
class Single:
    """What a file holds."""

    path: Path
    pipeline: str
    parts: Mapping[str, str]
    """Part -> how the names of its tensors begin."""
    lender: str
    """Registered base that has what the file lacks."""
    sampler: Mapping[str, Any]
    """What the file says of its sampler, over the lender's config."""
    guided: bool
    """Of FLUX.1: whether there is an input for guidance."""

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
        with path.open("rb") as opened:
            head = opened.read(64)
        if reason := foreign(head):
            raise BadBase(f"{path} {reason}")
        with safe_open(path, "np") as file:
            names, metadata = set(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadBase(
            f"{path} is no whole .safetensors file ({str(error)[:120]}). Download or copy it again."
        ) from error
    pipeline = _pipeline(path, names)
    parts = {
        part: prefix
        for part, prefixes in LAYOUTS[pipeline].items()
        for prefix in reversed(prefixes)
        if any(name.startswith(prefix) for name in names)
    }
    guided = any(name.endswith("guidance_in.in_layer.weight") for name in names)
    flux = "flux-dev" if guided else "flux-schnell"
    lenders = {"StableDiffusionXLPipeline": "sdxl", "StableDiffusionPipeline": "sd15"}
    return Single(path, pipeline, parts, lenders.get(pipeline, flux), _sampler(names, metadata), guided)


def _pipeline(path: Path, names: set[str]) -> str:
    for pattern, what in OTHERS:
        if any(re.fullmatch(pattern, name) for name in names):
            raise BadBase(f"{path.name} is {what}.")
    for pattern, pipeline in MARKS:
        if any(re.fullmatch(pattern, name) for name in names):
            return pipeline
    raise BadBase(
        f"{path.name} has {len(names)} tensors, first {min(names, default='none')[:60]}: it is no checkpoint "
        "of SDXL, Stable Diffusion 1.5 or FLUX.1. Other bases are read from a folder in diffusers layout."
    )


def _sampler(names: set[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Empty tensors by which trainers mark checkpoints that predict v, and end in pure noise."""
    told: dict[str, Any] = {}
    if "v_pred" in names or metadata.get("modelspec.prediction_type") == "v":
        told["prediction_type"] = "v_prediction"
    if "ztsnr" in names:
        told |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return told
