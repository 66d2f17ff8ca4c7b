"""Bases of 2025 and 2026 in other programs: their own models at a small size, and their loaders."""

import importlib
from typing import Any

from benchmarks.robustness.programs import Case, _comfyui_model, _merged_by, _patched_by_comfyui
from torch import nn

HIDREAM: dict[str, Any] = {
    **{"image_model": "hidream", "attention_head_dim": 16, "num_attention_heads": 2, "patch_size": 2},
    **{"num_layers": 2, "num_single_layers": 2, "in_channels": 4, "out_channels": 4, "text_emb_dim": 20},
    **{"num_routed_experts": 4, "num_activated_experts": 2, "caption_channels": [24, 24]},
    **{"axes_dims_rope": [4, 6, 6], "max_resolution": [8, 8], "llama_layers": [0, 1, 1, 1]},
}
ANIMA: dict[str, Any] = {
    **{"max_img_h": 32, "max_img_w": 32, "max_frames": 8, "in_channels": 4, "out_channels": 4},
    **{"patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 32},
    **{"num_blocks": 2, "num_heads": 2, "crossattn_emb_channels": 1024, "pos_emb_cls": "rope3d"},
    **{"use_adaln_lora": True, "adaln_lora_dim": 8, "rope_enable_fps_modulation": False},
}


def _anima_of_kohya() -> nn.Module:
    return importlib.import_module("library.anima_models").Anima(**ANIMA)


CASES: dict[str, dict[str, Case]] = {
    "comfyui": {
        "hidream": Case(_comfyui_model("HiDream", HIDREAM), _patched_by_comfyui),
        "anima": Case(_comfyui_model("Anima", {**ANIMA, "image_model": "anima"}), _patched_by_comfyui),
    },
    "sd-scripts": {"anima": Case(_anima_of_kohya, _merged_by("networks.lora_anima"))},
}
"""Program -> family -> the program's own model and loader of it."""
