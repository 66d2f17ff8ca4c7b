"""Qwen-Image 2.1's modules: its authors call them as diffusers does."""

from limner.models.key_map import unchanged
from limner.models.shared_keys import DOUBLE

DENOISER = unchanged(
    *(f"{DOUBLE}attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"{DOUBLE}img_mlp.{name}" for name in ("proj", "gate_layer", "out")),
    *("img_in", "txt_in.in_layer", "txt_in.out_layer", "modulation.1", "norm_out.linear", "proj_out"),
    *(f"time_text_embed.timestep_embedder.linear_{n}" for n in (1, 2)),
)
"""What LoRA files of Qwen-Image 2.1 call its modules."""
