"""What LoRA files of Krea 2 call its modules.

ComfyUI reads diffusers' names by ``krea2_to_diffusers`` (comfy/utils.py) besides the authors'; musubi-tuner's
model (krea2/krea2_mmdit.py) bears the authors' names; DiffSynth-Studio has a reader of its own
(diffsynth/utils/lora/krea2.py), which takes diffusers' file.
"""

from limner.models.key_map import (
    FamilyKeys,
    KeyMap,
    ToolKeys,
    diffusers_keys,
    dotted,
    flat,
    kohya_keys,
    musubi_keys,
)
from limner.models.krea2.facts import FACTS
from limner.models.krea2.keys import DENOISER

WIDTH, TEXT_WIDTH = 6144, 2560

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model.", "native"),
            reads=(
                flat("lora_unet_"),
                dotted("diffusion_model.", "native"),
                *(dotted(prefix) for prefix in ("diffusion_model.", "transformer.", "")),
                flat("lycoris_", "diffusers"),
            ),
            peft=True,
        ),
        "musubi": musubi_keys("native"),
        "kohya": kohya_keys(),
        "diffsynth": ToolKeys(
            writes=dotted("transformer."),
            reads=(dotted("transformer."), dotted("diffusion_model.", "native"), dotted("", "native")),
            kinds=("LoRA",),
            peft=True,
        ),
    },
    base_names=("krea2", "krea-2", "krea 2"),
    depths=(28,),
    shapes={
        "img_in": ((WIDTH, 64),),
        "final_layer.linear": ((64, WIDTH),),
        "time_mod_proj": ((6 * WIDTH, WIDTH),),
        "text_fusion.projector": ((1, 12),),
        "txt_in.linear_1": ((WIDTH, TEXT_WIDTH),),
        **{
            f"attn.{name}": ((rows, WIDTH), (TEXT_WIDTH, TEXT_WIDTH))
            for name, rows in {
                "to_q": WIDTH,
                "to_k": 1536,
                "to_v": 1536,
                "to_out.0": WIDTH,
                "to_gate": WIDTH,
            }.items()
        },
        **dict.fromkeys(("ff.gate", "ff.up"), ((16384, WIDTH), (6912, TEXT_WIDTH))),
        "ff.down": ((WIDTH, 16384), (TEXT_WIDTH, 6912)),
    },
)
