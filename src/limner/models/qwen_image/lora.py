"""What LoRA files of Qwen-Image call its modules: the authors' names are diffusers'."""

from limner.models.key_map import (
    JOINT_ATTENTION,
    FamilyKeys,
    KeyMap,
    ToolKeys,
    diffsynth_keys,
    diffusers_keys,
    dotted,
    flat,
    kohya_keys,
    musubi_keys,
)
from limner.models.qwen_image.facts import FACTS
from limner.models.qwen_image.keys import DENOISER

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model."),
            reads=(
                flat("lora_unet_"),
                *(dotted(prefix) for prefix in ("diffusion_model.", "transformer.", "")),
                flat("lycoris_", "diffusers"),
            ),
            peft=True,
        ),
        "musubi": musubi_keys("diffusers"),
        "kohya": kohya_keys(),
        "diffsynth": diffsynth_keys("diffusion_model."),
    },
    base_names=("qwen",),
    depths=(60,),
    shapes={
        **dict.fromkeys(JOINT_ATTENTION, ((3072, 3072),)),
        "img_in": ((3072, 64),),
        "txt_in": ((3072, 3584),),
        "proj_out": ((64, 3072),),
    },
)
