"""What LoRA files of FLUX.1 call its modules."""

from limner.models.flux.facts import FACTS
from limner.models.flux.keys import DENOISER, XLABS
from limner.models.key_map import (
    BFL_COMFYUI,
    CLIP_G,
    CLIP_L,
    JOINT_ATTENTION,
    KOHYA_CLIP_L,
    KOHYA_T5,
    T5,
    FamilyKeys,
    KeyMap,
    ToolKeys,
    by_either_name,
    diffusers_keys,
    dotted,
    flat,
    kohya_keys,
    scripts_keys,
)
from limner.models.shared_keys import CLIP_MODULES, T5_MODULES

KOHYA_TEXT = {"text_encoder": KOHYA_CLIP_L, "text_encoder_2": KOHYA_T5}

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    processors=KeyMap(XLABS),
    text={"text_encoder": CLIP_MODULES, "text_encoder_2": T5_MODULES},
    text_styles={
        "text_encoder": CLIP_L,
        "text_encoder_2": (*T5, CLIP_G[0], CLIP_G[2], CLIP_G[4]),  # OneTrainer calls T5 te2
    },
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser, "text_encoder", "text_encoder_2"),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model.", "native"),
            reads=BFL_COMFYUI,
            text=by_either_name(KOHYA_TEXT, "text_encoder"),
            unfused_style=flat("lycoris_", "diffusers"),
        ),
        "sd-scripts": scripts_keys("native", KOHYA_TEXT, r"norm_out\.|proj_out", needs_alpha=True),
        "kohya": kohya_keys(KOHYA_TEXT),
        "diffsynth": ToolKeys(
            writes=flat("lora_unet_"),
            reads=(flat("lora_unet_"),),
            kinds=("LoRA",),
            lacks=r"(?!transformer_blocks\.|single_transformer_blocks\.)",
        ),
    },
    base_names=("flux-1", "flux1", "flux.1"),
    depths=(19,),
    shapes={
        **dict.fromkeys(JOINT_ATTENTION, ((3072, 3072),)),
        **dict.fromkeys(("ff.net.0.proj", "ff_context.net.0.proj", "proj_mlp"), ((12288, 3072),)),
        **dict.fromkeys(("ff.net.2", "ff_context.net.2"), ((3072, 12288),)),
        "proj_out": ((3072, 15360), (64, 3072)),
        "x_embedder": ((3072, 64),),
        "context_embedder": ((3072, 4096),),
    },
)
