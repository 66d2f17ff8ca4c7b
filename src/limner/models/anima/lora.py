"""What LoRA files of Anima call its modules.

The authors' names are those of ComfyUI's model (comfy/ldm/cosmos/predict2.py), of sd-scripts'
(library/anima_models.py; of a file, networks/lora_anima.py takes all linear layers) and of DiffSynth-Studio's
(diffsynth/models/anima_dit.py). diffusers reads ComfyUI's files besides its own
(``_convert_non_diffusers_anima_lora_to_diffusers``). A LoRA of the text conditioner (``llm_adapter``), which
these tools train by wish alone, is not among the modules here.
"""

from limner.models.anima.facts import FACTS
from limner.models.anima.keys import DENOISER
from limner.models.key_map import (
    FamilyKeys,
    KeyMap,
    ToolKeys,
    diffusers_keys,
    dotted,
    flat,
    kohya_keys,
    scripts_keys,
)

WIDTH, TEXT_WIDTH, FEED, ADALN = 2048, 1024, 8192, 256
SQUARE = ((WIDTH, WIDTH),)

LORA = FamilyKeys(
    facts=FACTS,
    table=KeyMap(DENOISER),
    tools={
        "diffusers": diffusers_keys(FACTS.denoiser),
        "comfyui": ToolKeys(
            writes=dotted("diffusion_model.", "native"),
            reads=(flat("lora_unet_"), dotted("diffusion_model.", "native")),
            peft=True,
        ),
        "sd-scripts": scripts_keys("native"),
        "kohya": kohya_keys(),
        "diffsynth": ToolKeys(
            writes=dotted("", "native"),
            reads=(dotted("diffusion_model.", "native"), dotted("", "native")),
            kinds=("LoRA",),
            peft=True,
        ),
    },
    base_names=("anima",),
    depths=(28,),
    shapes={
        **{f"attn1.{name}": SQUARE for name in ("to_q", "to_k", "to_v", "to_out.0")},
        **dict.fromkeys(("attn2.to_q", "attn2.to_out.0"), SQUARE),
        **dict.fromkeys(("attn2.to_k", "attn2.to_v"), ((WIDTH, TEXT_WIDTH),)),
        "ff.net.0.proj": ((FEED, WIDTH),),
        "ff.net.2": ((WIDTH, FEED),),
        **{f"norm{number}.linear_1": ((ADALN, WIDTH),) for number in "123"},
        **{f"norm{number}.linear_2": ((3 * WIDTH, ADALN),) for number in "123"},
        "norm_out.linear_1": ((ADALN, WIDTH),),
        "norm_out.linear_2": ((2 * WIDTH, ADALN),),
        "patch_embed.proj": ((WIDTH, 68),),
        "proj_out": ((64, WIDTH),),
        "t_embedder.linear_1": SQUARE,
        "t_embedder.linear_2": ((3 * WIDTH, WIDTH),),
    },
)
