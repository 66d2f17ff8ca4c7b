"""Tiny pipelines of edit models that see their images in the text too."""

import json
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

from tiny import qwen_text_encoder, qwen_tokenizer, save_qwen_image

VISION = {
    "patch_size": 16,
    "window_size": 64,
    "depth": 2,
    "fullatt_block_indexes": [1],
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 16,
}


def save_qwen_image_edit(folder: Path, *, plus: bool = False) -> Path:
    """Write a tiny Qwen-Image-Edit to ``folder``. Images of 32 px or more; controls of about 96 or 128 px.

    Its vision encoder has patches of 16 pixels, so that nothing is resized for it. That of Plus tells control
    images by their time, as the base of November 2025 does.
    """
    resolution = 128 if plus else 96
    save_qwen_image(
        folder,
        pipeline=QwenImageEditPlusPipeline if plus else QwenImageEditPipeline,
        vision=VISION,
        options={"processor": None},
        transformer={"zero_cond_t": plus},
        facts={"resolution": resolution, "text_length": 2000},
    )
    small_areas(pipeline_qwenimage_edit_plus if plus else pipeline_qwenimage_edit, resolution)
    index = json.loads((folder / "model_index.json").read_text())
    index["processor"] = ["transformers", "Qwen2VLProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def qwen_encoder(folder: Path) -> Path:
    """Write a tiny Qwen2.5-VL to ``folder/qwen2.5-vl``, as a look of predictors, and give that."""
    torch.manual_seed(0)
    qwen_text_encoder(VISION).save_pretrained(folder / "qwen2.5-vl")
    qwen_tokenizer().save_pretrained(folder / "qwen2.5-vl")
    return folder / "qwen2.5-vl"


@cache
def small_areas(module: ModuleType, resolution: int) -> None:
    """Have a pipeline make control images as large as its tiny base wants them, in place of a megapixel."""
    size, scale = module.calculate_dimensions, (resolution / 1024) ** 2
    module.calculate_dimensions = lambda area, ratio: size(area * scale, ratio)
