"""A tiny Chroma with random weights, saved in the true layout."""

from pathlib import Path

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tiny import save, t5, t5_tokenizer, vae


def save_chroma(folder: Path) -> Path:
    """Write a tiny Chroma to ``folder``. Images of 32 px or more; text of 12 tokens."""
    torch.manual_seed(0)
    pipe = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=0.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5(16),
        tokenizer=t5_tokenizer(),
        transformer=ChromaTransformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=2,
        ),
    )
    return save(pipe, folder, text_length=12)
