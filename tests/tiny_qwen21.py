"""A tiny Qwen-Image 2.1 with random weights, saved in the true layout; its processor, without torchvision."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from tiny import ONE_LAYER, SPECIAL, TEXT, qwen_tokenizer, save

CHAT = (
    "{% for each in messages %}<|im_start|>{{ each.role }}\n{{ each.content[0].text }}<|im_end|>\n"
    "{% endfor %}"
)
SHIFT = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "shift_terminal": 0.02}


class TextOnly(Qwen3VLProcessor):
    """transformers' own, which is made beside torchvision alone, though text needs none."""

    @classmethod
    def read(cls, folder: Path) -> "TextOnly":
        """That of a base."""
        return cls.of(Qwen2Tokenizer.from_pretrained(folder / "processor"))

    @classmethod
    def of(cls, tokenizer: Any) -> "TextOnly":
        """With such a tokenizer."""
        return cls(
            image_processor=None,
            tokenizer=tokenizer,
            video_processor=None,
            chat_template=tokenizer.chat_template,
        )

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Whatever it is."""
        return type(argument)


def save_qwen21(folder: Path, *, sigmas: list[float] | None = None) -> Path:
    """Write a tiny Qwen-Image 2.1 to ``folder``. Images of 32 px or more; text of 2048 tokens."""
    torch.manual_seed(0)
    text = {**TEXT, "head_dim": 8, "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    vision = {**ONE_LAYER, "deepstack_visual_indexes": [0]}
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(["<|video_pad|>"], special_tokens=True)
    tokenizer.chat_template = CHAT
    spread = {"latents_mean": [0.1 * n for n in range(8)], "latents_std": [1 + 0.1 * n for n in range(8)]}
    pipe = QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**({} if sigmas else {**SHIFT, "max_image_seq_len": 8192})),
        vae=AutoencoderKLQwenImage21(
            base_dim=8, decoder_base_dim=8, z_dim=8, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1, **spread
        ),
        text_encoder=Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL)
        ),
        processor=TextOnly.of(tokenizer),
        transformer=QwenImage21Transformer2DModel(
            in_channels=8,
            out_channels=8,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=16,
            axes_dims_rope=(4, 6, 6),
        ),
        sample_sigmas=sigmas,
    )
    for name, parameter in pipe.transformer.named_parameters():  # zeros hide a wrong order and a wrong sign
        if "norm" in name and parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    pipe.register_modules(processor=tokenizer)
    save(pipe, folder, text_length=2048)
    index = json.loads((folder / "model_index.json").read_text())
    index["processor"] = ["transformers", "Qwen3VLProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
