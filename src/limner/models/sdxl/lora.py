"""What LoRA files of Stable Diffusion XL call its modules."""

from dataclasses import replace

from limner.models.key_map import (
    CLIP_G,
    CLIP_L,
    KOHYA_CLIP_G,
    KOHYA_CLIP_L,
    UNET_COMFYUI,
    FamilyKeys,
    KeyMap,
    ToolKeys,
    by_either_name,
    diffsynth_keys,
    diffusers_keys,
    flat,
    kohya_keys,
    scripts_keys,
)
from limner.models.sdxl.facts import FACTS
from limner.models.shared_keys import CLIP_MODULES, UNET_KERNELS, UNET_OUTER, unet

KOHYA_TEXT = {"text_encoder": KOHYA_CLIP_L, "text_encoder_2": KOHYA_CLIP_G}

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(unet(3, attention_levels=(1, 2))),
    text={"text_encoder": CLIP_MODULES, "text_encoder_2": CLIP_MODULES},
    text_styles={"text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser, *KOHYA_TEXT),
        "comfyui": ToolKeys(
            writes=flat("lora_unet_"),
            reads=UNET_COMFYUI,
            text=by_either_name(KOHYA_TEXT, *KOHYA_TEXT),
        ),
        # convert_diffusers_to_sai_if_needed: not of a file that has the middle block alone
        "sd-scripts": replace(
            scripts_keys("native", KOHYA_TEXT, UNET_OUTER),
            more_reads=((r"(down|up)_blocks", flat("lora_unet_", "diffusers")),),
        ),
        "kohya": replace(kohya_keys(KOHYA_TEXT), reads=(flat("lora_unet_"), flat("lora_unet_", "diffusers"))),
        "diffsynth": diffsynth_keys(""),
    },
    base_names=("stable-diffusion-xl", "sdxl"),
    shapes=dict.fromkeys(("attn2.to_k", "attn2.to_v"), ((None, 2048),)),
    kernels=UNET_KERNELS,
)
