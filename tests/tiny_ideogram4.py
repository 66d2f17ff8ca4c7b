"""A tiny Ideogram 4 with random weights, saved in the true layout."""

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, Ideogram4Pipeline, Ideogram4Transformer2DModel
from transformers import Qwen3VLConfig, Qwen3VLModel

from tiny import ONE_LAYER, SPECIAL, TEXT, flux2_parts, qwen_tokenizer, save

CHAT = (
    "{% for each in messages %}<|im_start|>{{ each.role }}\n{{ each.content[0].text }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_ideogram4(folder: Path) -> Path:
    """Write a tiny Ideogram 4 to ``folder``. Images of 32 px or more; text of 96 tokens."""
    vae = flux2_parts()["vae"]
    text = {
        **TEXT,
        "num_hidden_layers": 36,
        "head_dim": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
    }
    vision = {**ONE_LAYER, "out_hidden_size": 8, "deepstack_visual_indexes": [0]}
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = CHAT
    pipe = Ideogram4Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL)),
        tokenizer=tokenizer,
        transformer=_denoiser(),
        unconditional_transformer=_denoiser(),
    )
    return save(pipe, folder, text_length=96)


def _denoiser() -> Ideogram4Transformer2DModel:
    return Ideogram4Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=48,
        adaln_dim=16,
        llm_features_dim=13 * 8,
        mrope_section=(4, 2, 2),
    )
