"""What LoRA files of Ideogram 4 call its modules.

The authors' names are those of ComfyUI's model (comfy/ldm/ideogram4/model.py), of musubi-tuner's
(ideogram4/ideogram4_model.py) and of ai-toolkit's files, which diffusers reads besides its own
(``_convert_non_diffusers_ideogram4_lora_to_diffusers``).
"""

from limner.models.ideogram4.facts import FACTS
from limner.models.ideogram4.keys import DENOISER
from limner.models.key_map import FamilyKeys, KeyMap, ToolKeys, diffusers_keys, dotted, flat, musubi_keys

WIDTH, FEED, ADALN = 4608, 12288, 512

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model.", "native"),
            reads=(flat("lora_unet_"), dotted("diffusion_model.", "native")),
            peft=True,
        ),
        "musubi": musubi_keys("native"),
    },
    base_names=("ideogram4", "ideogram-4", "ideogram 4", "ideogram-v4"),
    shapes={
        **{f"attention.{name}": ((WIDTH, WIDTH),) for name in ("to_q", "to_k", "to_v", "to_out.0")},
        **dict.fromkeys(("feed_forward.w1", "feed_forward.w3"), ((FEED, WIDTH),)),
        "feed_forward.w2": ((WIDTH, FEED),),
        "final_layer.adaln_modulation": ((WIDTH, ADALN),),
        "adaln_modulation": ((4 * WIDTH, ADALN),),
        "final_layer.linear": ((128, WIDTH),),
        "input_proj": ((WIDTH, 128),),
        "llm_cond_proj": ((WIDTH, 53248),),
        "adaln_proj": ((ADALN, WIDTH),),
        "t_embedding.mlp_in": ((WIDTH, WIDTH),),
        "t_embedding.mlp_out": ((WIDTH, WIDTH),),
    },
)
