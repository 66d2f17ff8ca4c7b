"""Z-Image's modules in diffusers' names and in its authors'."""

from limner.models.key_map import KeyEntry, entries, fused, unchanged

DENOISER = (
    *(
        row
        for block in ("layers.{}.", "noise_refiner.{}.", "context_refiner.{}.")
        for row in (
            fused(f"{block}attention", f"{block}attention.qkv"),
            KeyEntry((f"{block}attention.to_out.0",), f"{block}attention.out"),
            *unchanged(
                *(
                    f"{block}{name}"
                    for name in (*(f"feed_forward.w{n}" for n in (1, 2, 3)), "adaLN_modulation.0")
                )
            ),
        )
    ),
    *entries(
        {
            "all_x_embedder.2-1": "x_embedder",
            "all_final_layer.2-1.linear": "final_layer.linear",
            "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        }
    ),
    *unchanged("cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"),
)
