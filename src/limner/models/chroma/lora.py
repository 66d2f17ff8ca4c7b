"""What LoRA files of Chroma call its modules: as those of FLUX.1. DiffSynth-Studio has no reader for them."""

from dataclasses import replace

from limner.models.chroma.facts import FACTS
from limner.models.chroma.keys import DENOISER
from limner.models.flux.lora import LORA as FLUX
from limner.models.key_map import FamilyKeys, KeyMap, diffusers_keys, kohya_keys, scripts_keys

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    processors=FLUX.processors,
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser),
        "comfyui": replace(FLUX.tools["comfyui"], text={}, lacks=r"distilled_guidance_layer\."),
        "sd-scripts": scripts_keys(
            "native", lacks=r"norm_out\.|proj_out|distilled_guidance_layer\.", needs_alpha=True
        ),
        "kohya": kohya_keys(),
    },
    base_names=("chroma",),
    depths=FLUX.depths,
    shapes=FLUX.shapes,
    taken_for=FLUX.family,
)
