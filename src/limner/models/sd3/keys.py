"""Stable Diffusion 3.5's modules in diffusers' names and in Stability's (sd3.5, ``mmditx.py``)."""

from limner.models.key_map import KeyEntry, entries, fused
from limner.models.shared_keys import DOUBLE, NORM_OUT, TEXT_PROJECTIONS

JOINT = "joint_blocks.{}."

DENOISER = (
    fused(f"{DOUBLE}attn", f"{JOINT}x_block.attn.qkv"),
    fused(f"{DOUBLE}attn", f"{JOINT}context_block.attn.qkv", TEXT_PROJECTIONS),
    fused(f"{DOUBLE}attn2", f"{JOINT}x_block.attn2.qkv"),
    *entries(
        {
            "attn.to_out.0": "x_block.attn.proj",
            "attn2.to_out.0": "x_block.attn2.proj",
            "attn.to_add_out": "context_block.attn.proj",
            "ff.net.0.proj": "x_block.mlp.fc1",
            "ff.net.2": "x_block.mlp.fc2",
            "ff_context.net.0.proj": "context_block.mlp.fc1",
            "ff_context.net.2": "context_block.mlp.fc2",
            "norm1.linear": "x_block.adaLN_modulation.1",
        },
        before=DOUBLE,
        native=JOINT,
    ),
    *entries(
        {
            "proj_out": "final_layer.linear",
            "context_embedder": "context_embedder",
            "pos_embed.proj": "x_embedder.proj",
        }
    ),
    KeyEntry(
        (f"{DOUBLE}norm1_context.linear",), f"{JOINT}context_block.adaLN_modulation.1", halves_swapped=True
    ),
    *(
        KeyEntry((f"time_text_embed.{part}_embedder.linear_{n}",), f"{native}.mlp.{2 * n - 2}")
        for part, native in (("timestep", "t_embedder"), ("text", "y_embedder"))
        for n in (1, 2)
    ),
    NORM_OUT,
)
