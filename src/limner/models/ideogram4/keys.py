"""Ideogram 4's modules in diffusers' names and in those of ideogram-oss/ideogram4."""

from limner.models.key_map import KeyEntry, fused, unchanged

BLOCK = "layers.{}."

DENOISER = (
    fused(f"{BLOCK}attention", f"{BLOCK}attention.qkv"),
    KeyEntry((f"{BLOCK}attention.to_out.0",), f"{BLOCK}attention.o"),
    *unchanged(
        *(f"{BLOCK}{name}" for name in (*(f"feed_forward.w{n}" for n in (1, 2, 3)), "adaln_modulation")),
        *("input_proj", "llm_cond_proj", "adaln_proj", "t_embedding.mlp_in", "t_embedding.mlp_out"),
        *("final_layer.linear", "final_layer.adaln_modulation"),
    ),
)
"""What LoRA files of Ideogram 4 call its modules."""
