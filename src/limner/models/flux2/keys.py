"""FLUX.2's modules in diffusers' names and in those of black-forest-labs/flux2."""

from limner.models.key_map import entries
from limner.models.shared_keys import (
    BFL_ATTENTION,
    BFL_EMBEDDER,
    BFL_OUTER,
    DOUBLE,
    NORM_OUT,
    SINGLE,
)

DENOISER = (
    *BFL_ATTENTION,
    *entries(
        {
            "ff.linear_in": "img_mlp.0",
            "ff.linear_out": "img_mlp.2",
            "ff_context.linear_in": "txt_mlp.0",
            "ff_context.linear_out": "txt_mlp.2",
        },
        before=DOUBLE,
        native="double_blocks.{}.",
    ),
    *entries(
        {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        before=SINGLE,
        native="single_blocks.{}.",
    ),
    *entries(
        {
            f"{part}.linear": f"{part}.lin"
            for part in (
                "double_stream_modulation_img",
                "double_stream_modulation_txt",
                "single_stream_modulation",
            )
        }
    ),
    *BFL_OUTER,
    *entries(BFL_EMBEDDER, before="time_guidance_embed.timestep_embedder.", native="time_in."),
    *entries(BFL_EMBEDDER, before="time_guidance_embed.guidance_embedder.", native="guidance_in."),
    NORM_OUT,
)
