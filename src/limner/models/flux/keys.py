"""FLUX.1's modules in diffusers' names and in those of black-forest-labs/flux."""

from limner.models.key_map import KeyEntry, KeyMap, entries, fused
from limner.models.shared_keys import (
    BFL_ATTENTION,
    BFL_EMBEDDER,
    BFL_OUTER,
    DOUBLE,
    NORM_OUT,
    SINGLE,
)

BLOCKS = (
    *BFL_ATTENTION,
    *entries(
        {
            "ff.net.0.proj": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
        },
        before=DOUBLE,
        native="double_blocks.{}.",
    ),
    KeyEntry(
        tuple(f"{SINGLE}{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")),
        "single_blocks.{}.linear1",
        (1, 1, 1, 4),
    ),
    KeyEntry((f"{SINGLE}proj_out",), "single_blocks.{}.linear2"),
)
"""Linear layers of the blocks but for their modulations."""
DENOISER = (
    *BLOCKS,
    *entries(
        {"norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin"},
        before=DOUBLE,
        native="double_blocks.{}.",
    ),
    KeyEntry((f"{SINGLE}norm.linear",), "single_blocks.{}.modulation.lin"),
    *BFL_OUTER,
    *(
        row
        for part, native in (("timestep", "time_in"), ("guidance", "guidance_in"), ("text", "vector_in"))
        for row in entries(BFL_EMBEDDER, before=f"time_text_embed.{part}_embedder.", native=f"{native}.")
    ),
    NORM_OUT,
)
"""What a LoRA may train."""

XLABS = (
    fused(f"{DOUBLE}attn", "double_blocks.{}.processor.qkv_lora1"),
    fused(
        f"{DOUBLE}attn", "double_blocks.{}.processor.qkv_lora2", ("add_q_proj", "add_k_proj", "add_v_proj")
    ),
    KeyEntry((f"{DOUBLE}attn.to_out.0",), "double_blocks.{}.processor.proj_lora1"),
    KeyEntry((f"{DOUBLE}attn.to_add_out",), "double_blocks.{}.processor.proj_lora2"),
    fused(f"{SINGLE}attn", "single_blocks.{}.processor.qkv"),
    KeyEntry((f"{SINGLE}proj_out",), "single_blocks.{}.processor.proj"),
)
"""The layers that XLabs' trainer (x-flux, DoubleStreamBlockLoraProcessor) puts LoRAs on, without the ending
``_lora`` of those in single blocks: 1 is the image's stream, 2 the text's."""

NORMS = tuple(
    row
    for before, native, names in (
        (DOUBLE, "double_blocks.{}.img_attn.norm.", ("norm_q", "norm_k")),
        (DOUBLE, "double_blocks.{}.txt_attn.norm.", ("norm_added_q", "norm_added_k")),
        (SINGLE, "single_blocks.{}.norm.", ("norm_q", "norm_k")),
    )
    for row in entries(
        dict(zip(names, ("query_norm", "key_norm"), strict=True)), before=f"{before}attn.", native=native
    )
)
"""Norms of queries and keys."""
CHECKPOINT = KeyMap(DENOISER + NORMS)
"""What a checkpoint holds."""
NORM_LEAVES: dict[str, str] = dict.fromkeys(("norm_q", "norm_k", "norm_added_q", "norm_added_k"), "scale")
