"""What LoRA files of Z-Image call its modules."""

from limner.models.key_map import (
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
from limner.models.z_image.facts import FACTS
from limner.models.z_image.keys import DENOISER

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser, kinds=("LoRA", "DoRA", "LoKr")),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model."),
            reads=(
                flat("lora_unet_"),
                dotted("diffusion_model.", "native"),
                *(dotted(prefix) for prefix in ("diffusion_model.", "transformer.", "")),
                flat("lycoris_", "diffusers"),
            ),
            peft=True,
        ),
        "musubi": musubi_keys("diffusers"),
        "kohya": kohya_keys(),
        "diffsynth": diffsynth_keys("diffusion_model."),
    },
    base_names=("z-image", "zimage", "lumina2"),
    shapes={
        **{f"attention.{name}": ((3840, 3840),) for name in ("to_q", "to_k", "to_v", "to_out.0")},
        **dict.fromkeys(("feed_forward.w1", "feed_forward.w3"), ((10240, 3840),)),
        "feed_forward.w2": ((3840, 10240),),
    },
)
