"""What LoRA files of FLUX.2 call its modules; those of FLUX.2 dev are the same."""

from dataclasses import replace

from limner.models.flux2.facts import FACTS
from limner.models.flux2.keys import DENOISER
from limner.models.key_map import KeyMap
from limner.models.lora_keys import (
    BFL_COMFYUI,
    FamilyKeys,
    ToolKeys,
    diffsynth_keys,
    diffusers_keys,
    dotted,
    flat,
    kohya_keys,
)

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": replace(diffusers_keys(FACTS.denoiser, kinds=("LoRA", "DoRA", "LoKr")), fuses=True),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model.", "native"),
            reads=BFL_COMFYUI,
            peft=True,
            unfused=flat("lycoris_", "diffusers"),
            lacks=r"time_guidance_embed\.|(double|single)_stream_modulation",
        ),
        "kohya": kohya_keys(),
        "diffsynth": diffsynth_keys(""),
    },
    more_pipelines=("Flux2Pipeline",),
    base_names=("flux.2", "flux-2", "flux2"),
    depths=(5, 8),
)
