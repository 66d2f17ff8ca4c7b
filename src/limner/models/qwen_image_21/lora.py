"""What LoRA files of Qwen-Image 2.1 call its modules: the authors' names are diffusers'.

ComfyUI's model (comfy/ldm/qwen_image21/model.py) has ``img_mlp.gate_layer`` and ``img_mlp.proj`` as one
weight, and finds the halves of a file behind ``transformer.``, ``lycoris_`` or no prefix alone
(comfy/lora.py); musubi-tuner's and DiffSynth-Studio's models have diffusers' names.
"""

from limner.models.key_map import (
    FamilyKeys,
    KeyMap,
    ToolKeys,
    diffsynth_keys,
    diffusers_keys,
    dotted,
    flat,
    musubi_keys,
)
from limner.models.qwen_image_21.facts import FACTS
from limner.models.qwen_image_21.keys import DENOISER

WIDTH, FEED = 4096, 12288

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser),
        "comfyui": ToolKeys(
            writes=dotted("transformer."),
            reads=(dotted("transformer."), dotted(""), flat("lycoris_", "diffusers")),
            peft=True,
        ),
        "musubi": musubi_keys("diffusers"),
        "diffsynth": diffsynth_keys("diffusion_model."),
    },
    base_names=("qwen-image-2.1", "qwen_image_2.1", "qwen image 2.1", "qwen_image_21", "qwen-image-21"),
    depths=(32,),
    shapes={
        **{f"attn.{name}": ((WIDTH, WIDTH),) for name in ("to_q", "to_k", "to_v", "to_out.0")},
        **dict.fromkeys(("img_mlp.proj", "img_mlp.gate_layer"), ((FEED, WIDTH),)),
        "img_mlp.out": ((WIDTH, FEED),),
        "img_in": ((WIDTH, 64),),
        **dict.fromkeys(("txt_in.in_layer", "txt_in.out_layer", "norm_out.linear"), ((WIDTH, WIDTH),)),
        "modulation.1": ((4 * WIDTH, WIDTH),),
        "proj_out": ((64, WIDTH),),
    },
)
