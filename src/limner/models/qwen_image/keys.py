"""Qwen-Image's modules: its authors call them as diffusers does."""

from limner.models.key_map import unchanged
from limner.models.shared_keys import DOUBLE, TEXT_PROJECTIONS

DENOISER = unchanged(
    *(
        f"{DOUBLE}{name}"
        for name in (
            *(
                f"attn.{part}"
                for part in ("to_q", "to_k", "to_v", *TEXT_PROJECTIONS, "to_out.0", "to_add_out")
            ),
            *(f"{side}_mlp.net.{part}" for side in ("img", "txt") for part in ("0.proj", "2")),
            "img_mod.1",
            "txt_mod.1",
        )
    ),
    *("img_in", "txt_in", "proj_out", "norm_out.linear"),
    *(f"time_text_embed.timestep_embedder.linear_{n}" for n in (1, 2)),
)
