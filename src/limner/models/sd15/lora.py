"""What LoRA files of Stable Diffusion 1.5 call its modules."""

from limner.models.key_map import (
    CLIP_L,
    KOHYA_CLIP_L,
    UNET_COMFYUI,
    FamilyKeys,
    KeyMap,
    ToolKeys,
    by_either_name,
    diffsynth_keys,
    diffusers_keys,
    flat,
    scripts_keys,
)
from limner.models.sd15.facts import FACTS
from limner.models.shared_keys import CLIP_MODULES, UNET_KERNELS, UNET_OUTER, unet

KOHYA_TEXT = {"text_encoder": KOHYA_CLIP_L[::-1]}  # one encoder has no number there

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(unet(4, attention_levels=(0, 1, 2))),
    text={"text_encoder": CLIP_MODULES},
    text_styles={"text_encoder": CLIP_L},
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser, *KOHYA_TEXT),
        "comfyui": ToolKeys(
            writes=flat("lora_unet_", "diffusers"),
            reads=UNET_COMFYUI,
            text=by_either_name(KOHYA_TEXT, *KOHYA_TEXT),
        ),
        "sd-scripts": scripts_keys("diffusers", KOHYA_TEXT, UNET_OUTER),
        "kohya": ToolKeys(
            writes=flat("lora_unet_", "diffusers"),
            reads=(flat("lora_unet_"), flat("lora_unet_", "diffusers")),
            text=KOHYA_TEXT,
        ),
        "diffsynth": diffsynth_keys(""),
    },
    base_names=("stable-diffusion-v1", "sd_v1", "sd_1.5"),
    shapes=dict.fromkeys(("attn2.to_k", "attn2.to_v"), ((None, 768),)),
    kernels=UNET_KERNELS | {"proj_in": 1, "proj_out": 1},
)
