"""Krea 2's modules in diffusers' names and in those of krea-ai/krea-2."""

from limner.models.key_map import entries

ATTENTION = {"to_q": "wq", "to_k": "wk", "to_v": "wv", "to_out.0": "wo", "to_gate": "gate"}
BLOCK = {
    **{f"attn.{name}": f"attn.{native}" for name, native in ATTENTION.items()},
    **{f"ff.{name}": f"mlp.{name}" for name in ("gate", "up", "down")},
}

DENOISER = (
    *entries(BLOCK, before="transformer_blocks.{}.", native="blocks.{}."),
    *(
        row
        for blocks in ("layerwise_blocks", "refiner_blocks")
        for row in entries(BLOCK, before=f"text_fusion.{blocks}.{{}}.", native=f"txtfusion.{blocks}.{{}}.")
    ),
    *entries(
        {
            "img_in": "first",
            "final_layer.linear": "last.linear",
            "time_embed.linear_1": "tmlp.0",
            "time_embed.linear_2": "tmlp.2",
            "time_mod_proj": "tproj.1",
            "txt_in.linear_1": "txtmlp.1",
            "txt_in.linear_2": "txtmlp.3",
            "text_fusion.projector": "txtfusion.projector",
        }
    ),
)
"""What LoRA files of Krea 2 call its modules."""
