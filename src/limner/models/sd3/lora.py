"""What LoRA files of Stable Diffusion 3.5 call its modules. DiffSynth-Studio has no reader for them."""

from limner.models.key_map import (
    CLIP_G,
    CLIP_L,
    JOINT_ATTENTION,
    KOHYA_CLIP_G,
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
from limner.models.sd3.facts import FACTS
from limner.models.sd3.keys import DENOISER
from limner.models.shared_keys import CLIP_MODULES, T5_MODULES

KOHYA_TEXT = {
    "text_encoder": KOHYA_CLIP_L,
    "text_encoder_2": KOHYA_CLIP_G,
    "text_encoder_3": KOHYA_T5[:1],
}

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    text={"text_encoder": CLIP_MODULES, "text_encoder_2": CLIP_MODULES, "text_encoder_3": T5_MODULES},
    text_styles={
        "text_encoder": CLIP_L,
        "text_encoder_2": CLIP_G,
        "text_encoder_3": (*T5, dotted("text_encoder_3.")),
    },
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser, *KOHYA_TEXT),
        "comfyui": ToolKeys(
            writes=dotted("transformer."),
            reads=(
                flat("lora_unet_"),
                dotted("diffusion_model.", "native"),
                *(dotted(prefix) for prefix in ("transformer.", "base_model.model.")),
                *(flat(prefix, "diffusers") for prefix in ("lycoris_", "lora_transformer_")),
            ),
            text=by_either_name(KOHYA_TEXT, "text_encoder", "text_encoder_2"),
            peft=True,
        ),
        "sd-scripts": scripts_keys("native", KOHYA_TEXT, needs_alpha=True),
        "kohya": kohya_keys(KOHYA_TEXT),
    },
    base_names=("stable-diffusion-3", "sd3"),
    depths=(24, 38),
    shapes={
        **dict.fromkeys(JOINT_ATTENTION, ((1536, 1536), (2432, 2432))),
        **dict.fromkeys(
            (f"attn2.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")), ((1536, 1536), (2432, 2432))
        ),
        **dict.fromkeys(("ff.net.0.proj", "ff_context.net.0.proj"), ((6144, 1536), (9728, 2432))),
        **dict.fromkeys(("ff.net.2", "ff_context.net.2"), ((1536, 6144), (2432, 9728))),
        "context_embedder": ((1536, 4096), (2432, 4096)),
        "proj_out": ((64, 1536), (64, 2432)),
    },
    kernels={"pos_embed.proj": 2},
)
