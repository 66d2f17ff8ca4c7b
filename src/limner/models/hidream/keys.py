"""HiDream-I1's modules: its authors call them as diffusers does."""

from limner.models.key_map import unchanged

KINDS = {
    "double_stream_blocks.{}.block.": ("", "_t"),
    "single_stream_blocks.{}.block.": ("",),
}
"""Blocks of two streams and of one -> endings of their attention's layers, by stream."""
LINEARS = ("w1", "w2", "w3")

DENOISER = unchanged(
    *(
        f"{block}attn1.{name}{stream}"
        for block, streams in KINDS.items()
        for stream in streams
        for name in ("to_q", "to_k", "to_v", "to_out")
    ),
    *(
        f"{block}ff_i.{part}.{name}"
        for block in KINDS
        for part in ("shared_experts", "experts.{}")
        for name in LINEARS
    ),
    *(f"double_stream_blocks.{{}}.block.ff_t.{name}" for name in LINEARS),
    *(f"{block}adaLN_modulation.1" for block in KINDS),
    *("x_embedder.proj", "caption_projection.{}.linear"),
    *("final_layer.linear", "final_layer.adaLN_modulation.1"),
    *(
        f"{embedder}.linear_{n}"
        for embedder in ("t_embedder.timestep_embedder", "p_embedder.pooled_embedder")
        for n in (1, 2)
    ),
)
"""What LoRA files of HiDream-I1 call its modules."""
