"""More cases of ``imported_targets``: trainers that name layers by the ends of their names, as peft does."""

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.robustness.imported_cases import (
    ATTENTION,
    DEV,
    FLUX,
    FLUX_FUSED,
    JOINT,
    KLEIN,
    QWEN,
    XL,
    Z_IMAGE,
    Case,
    command,
    ends,
    has,
    inside,
)

from limner.importing.trained import FUSED


def simple(family: str, base: str, **values: Any) -> str:
    """A configuration of SimpleTuner."""
    return json.dumps(
        {"model_family": family, "pretrained_model_name_or_path": base, "lora_rank": 16, **values}
    )


def diffsynth(name: str, files: str, targets: str) -> str:
    """A command line of DiffSynth-Studio."""
    return (
        f"python examples/{name}/model_training/train.py --dataset_base_path img --lora_rank 16 "
        f'--model_id_with_origin_paths "{files}" --lora_base_model dit --lora_target_modules "{targets}"'
    )


SYNTH_FLUX = (
    "a_to_qkv,b_to_qkv,ff_a.0,ff_a.2,ff_b.0,ff_b.2,a_to_out,b_to_out,proj_out,norm.linear,norm1_a.linear"
)
SYNTH_FLUX += ",norm1_b.linear,to_qkv_mlp"
SYNTH_QWEN = (*ATTENTION, *JOINT, "to_add_out", "img_mlp.net.2", "img_mod.1", "txt_mlp.net.2", "txt_mod.1")
SYNTH_KLEIN = (*ATTENTION, *JOINT, "to_add_out", "linear_in", "linear_out", "to_qkv_mlp_proj")
SYNTH_KLEIN += tuple(f"single_transformer_blocks.{number}.attn.to_out" for number in range(20))
SYNTH_KREA = "wq,wk,wv,gate,wo,up,down,first,tmlp.0,tmlp.2,projector,txtmlp.1,txtmlp.3,last.linear,tproj.1"
DIFFUSERS_FLUX = (
    *(f"attn.{name}" for name in (*ATTENTION, *JOINT, "to_add_out")),
    *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
)

CASES: Mapping[str, Case] = {
    "SimpleTuner flux": Case(
        "a.json", simple("flux", DEV), "flux-dev", ends(*ATTENTION, *JOINT, "to_add_out")
    ),
    "SimpleTuner flux, all and feed-forward": Case(
        "a.json",
        simple("flux", DEV, flux_lora_target="context+ffs"),
        "flux-dev",
        ends(*JOINT, "to_add_out", "ff_context.net.0.proj", "ff_context.net.2"),
    ),
    "SimpleTuner sdxl": Case("a.json", simple("sdxl", XL), "sdxl", ends(*ATTENTION)),
    "SimpleTuner sd3": Case(
        "a.json", simple("sd3", "stabilityai/stable-diffusion-3.5-medium"), "sd35-medium", ends(*ATTENTION)
    ),
    "SimpleTuner qwen-image": Case("a.json", simple("qwen_image", QWEN), "qwen-image", ends(*ATTENTION)),
    "SimpleTuner z-image": Case("a.json", simple("z-image", Z_IMAGE), "z-image", ends(*ATTENTION)),
    "SimpleTuner flux2": Case(
        "a.json",
        simple("flux2", KLEIN),
        "flux2-klein-4b",
        ends(*(f"attn.{name}" for name in (*ATTENTION, "to_qkv_mlp_proj"))),
    ),
    "DiffSynth-Studio flux": Case(
        "a.sh",
        diffsynth("flux", f"{DEV}:flux1-dev.safetensors", SYNTH_FLUX),
        "flux-dev",
        inside(*FLUX),
        fused=FLUX_FUSED,
        differs=(FUSED,),
    ),
    "DiffSynth-Studio qwen-image": Case(
        "a.sh", diffsynth("qwen_image", f"{QWEN}:*", ",".join(SYNTH_QWEN)), "qwen-image", ends(*SYNTH_QWEN)
    ),
    "DiffSynth-Studio z-image": Case(
        "a.sh",
        diffsynth("z_image", f"{Z_IMAGE}:*", "to_q,to_k,to_v,to_out.0,w1,w2,w3"),
        "z-image",
        ends(*ATTENTION, "w1", "w2", "w3"),
    ),
    "DiffSynth-Studio flux2": Case(
        "a.sh", diffsynth("flux2", f"{KLEIN}:*", ",".join(SYNTH_KLEIN)), "flux2-klein-4b", ends(*SYNTH_KLEIN)
    ),
    "DiffSynth-Studio krea2": Case(
        "a.sh", diffsynth("krea2", "krea/Krea-2-Raw:*", SYNTH_KREA), "krea2", has()
    ),
    "diffusers flux": Case(
        "a.sh",
        command("train_dreambooth_lora_flux.py", DEV, "--rank=16"),
        "flux-dev",
        ends(*DIFFUSERS_FLUX),
    ),
    "diffusers flux-kontext": Case(
        "a.sh",
        command("train_dreambooth_lora_flux_kontext.py", "black-forest-labs/FLUX.1-Kontext-dev", "--rank=16"),
        "flux-kontext",
        ends(*DIFFUSERS_FLUX, "proj_mlp"),
    ),
    "diffusers sdxl": Case(
        "a.sh", command("train_dreambooth_lora_sdxl.py", XL, "--rank=16"), "sdxl", ends(*ATTENTION)
    ),
    "diffusers sd3": Case(
        "a.sh",
        command(
            "train_dreambooth_lora_sd3.py", "stabilityai/stable-diffusion-3.5-medium", "--rank=16"
        ),
        "sd35-medium",
        ends(*(f"attn.{name}" for name in (*ATTENTION, *JOINT, "to_add_out"))),
    ),
    "diffusers qwen-image": Case(
        "a.sh",
        command("train_dreambooth_lora_qwen_image.py", QWEN, "--rank=16"),
        "qwen-image",
        ends(*ATTENTION),
    ),
    "diffusers z-image": Case(
        "a.sh", command("train_dreambooth_lora_z_image.py", Z_IMAGE, "--rank=16"), "z-image", ends(*ATTENTION)
    ),
    "diffusers flux2": Case(
        "a.sh",
        command("train_dreambooth_lora_flux2_klein.py", KLEIN, "--rank=16"),
        "flux2-klein-4b",
        ends(
            *ATTENTION,
            "to_qkv_mlp_proj",
            *(f"single_transformer_blocks.{number}.attn.to_out" for number in range(24)),
        ),
    ),
    "diffusers krea2": Case(
        "a.sh",
        command("train_dreambooth_lora_krea2.py", "krea/Krea-2-Raw", "--rank=16"),
        "krea2",
        ends(
            *("img_in", "final_layer.linear", *ATTENTION, "to_gate", "ff.up", "ff.down"),
            *("text_fusion.projector", "txt_in.linear_1", "txt_in.linear_2"),
            *("time_embed.linear_1", "time_embed.linear_2", "time_mod_proj"),
        ),
    ),
    "diffusers flux, listed": Case(
        "a.sh",
        command("train_dreambooth_lora_flux.py", DEV, '--rank=16 --lora_layers="attn.to_k,attn.to_q"'),
        "flux-dev",
        ends("attn.to_k", "attn.to_q"),
    ),
}  # fmt: skip
"""Trainer and base -> what its source says."""
