"""Anima's modules in diffusers' names and in those of NVIDIA's Cosmos-Predict2, which its authors kept."""

from limner.models.key_map import entries

PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "output_proj"}
BRANCHES = {"1": "self_attn", "2": "cross_attn", "3": "mlp"}
"""The three parts of a block, each behind a modulation of its own."""

DENOISER = (
    *entries(
        {
            **{
                f"attn{number}.{name}": f"{BRANCHES[number]}.{native}"
                for number in "12"
                for name, native in PROJECTIONS.items()
            },
            "ff.net.0.proj": "mlp.layer1",
            "ff.net.2": "mlp.layer2",
            **{
                f"norm{number}.linear_{n}": f"adaln_modulation_{branch}.{n}"
                for number, branch in BRANCHES.items()
                for n in (1, 2)
            },
        },
        before="transformer_blocks.{}.",
        native="blocks.{}.",
    ),
    *entries(
        {
            "patch_embed.proj": "x_embedder.proj.1",
            "proj_out": "final_layer.linear",
            **{f"norm_out.linear_{n}": f"final_layer.adaln_modulation.{n}" for n in (1, 2)},
            **{f"time_embed.t_embedder.linear_{n}": f"t_embedder.1.linear_{n}" for n in (1, 2)},
        }
    ),
)
"""What LoRA files of Anima call its modules."""
