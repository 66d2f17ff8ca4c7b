"""What LoRA files of FLUX.2 call its modules; those of FLUX.2 dev are the same."""

from dataclasses import replace

from limner.models.flux2.facts import FACTS
from limner.models.flux2.keys import DENOISER
from limner.models.key_map import (
    BFL_COMFYUI,
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

WIDTHS = (3072, 4096, 6144)
"""Of klein 4B, klein 9B and dev."""

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": replace(diffusers_keys(FACTS.denoiser, kinds=("LoRA", "DoRA", "LoKr")), fuses=True),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model.", "native"),
            reads=BFL_COMFYUI,
            peft=True,
            unfused_style=flat("lycoris_", "diffusers"),
            lacks=r"time_guidance_embed\.|(double|single)_stream_modulation",
        ),
        "musubi": musubi_keys("native"),
        "kohya": kohya_keys(),
        "diffsynth": diffsynth_keys(""),
    },
    more_pipelines=("Flux2Pipeline",),
    base_names=("flux.2", "flux-2", "flux2"),
    depths=(5, 8),
    shapes={
        **dict.fromkeys(JOINT_ATTENTION, tuple((width, width) for width in WIDTHS)),
        **dict.fromkeys(
            ("ff.linear_in", "ff_context.linear_in"), tuple((6 * width, width) for width in WIDTHS)
        ),
        "attn.to_qkv_mlp_proj": tuple((9 * width, width) for width in WIDTHS),
        "attn.to_out": tuple((width, 4 * width) for width in WIDTHS),
        "x_embedder": tuple((width, 128) for width in WIDTHS),
        "context_embedder": ((3072, 7680), (4096, 12288), (6144, 15360)),
        "proj_out": tuple((128, width) for width in WIDTHS),
    },
)
