"""Checkpoints in one file as their authors name things, made of folders in diffusers layout.

Written from the authors' modules (CompVis latent-diffusion, generative-models, flux), apart from the code
that reads such files.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def unet(tensors: Mapping[str, Tensor], layers: int) -> Tensors:
    """``layers`` residual blocks to a level."""
    with_attention = {".".join(name.split(".")[:2]) for name in tensors if ".attentions." in name}

    def place(match: re.Match[str]) -> str:
        side, level, kind, number = match[1], int(match[2]), match[3], int(match[4])
        row = (layers + 1) * level
        if kind == "downsamplers":
            return f"input_blocks.{row + layers + 1}.0.op"
        if kind == "upsamplers":
            last = 2 if f"up_blocks.{level}" in with_attention else 1
            return f"output_blocks.{row + layers}.{last}.conv"
        stack, number = ("input_blocks", number + 1) if side == "down" else ("output_blocks", number)
        return f"{stack}.{row + number}.{0 if kind == 'resnets' else 1}"

    made = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        other = UNET.get(module) or re.sub(
            r"^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(\.conv$)?",
            place,
            module,
        )
        other = re.sub(r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", other)
        other = other.replace("mid_block.attentions.0", "middle_block.1")
        if "resnets" in module:
            head, _, last = other.rpartition(".")
            other = f"{head}.{RESNET[last]}"
        made[f"{other}.{leaf}"] = tensor
    return made


def vae(tensors: Mapping[str, Tensor]) -> Tensors:
    levels = 1 + max(int(m[1]) for name in tensors if (m := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    made = {}
    for name, tensor in tensors.items():
        other = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        other = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", other)
        other = other.replace(".resnets.", ".block.") if ".up." in other else other
        other = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", other)
        other = other.replace("upsamplers.0", "upsample").replace("conv_shortcut", "nin_shortcut")
        other = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", other)
        if "mid_block.attentions.0" in other:
            for mine, theirs in attention.items():
                other = other.replace(f"attentions.0.{mine}", f"attentions.0.{theirs}")
            tensor = tensor[..., None, None] if tensor.dim() == 2 else tensor
        other = other.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        made[other] = tensor
    return made


def clip(tensors: Mapping[str, Tensor]) -> Tensors:
    """As transformers had it before version 5."""
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}


def open_clip(tensors: Mapping[str, Tensor]) -> Tensors:
    words = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm": "ln_final",
        "text_model.encoder.layers": "transformer.resblocks",
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    made: Tensors = {}
    for name, tensor in clip(tensors).items():
        if "text_projection" in name:
            made["text_projection"] = tensor.T.contiguous()
        elif "self_attn.q_proj" in name:
            three = [clip(tensors)[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            stem, leaf = name.replace("self_attn.q_proj", "attn.in_proj").rsplit(".", 1)
            stem = stem.replace("text_model.encoder.layers", "transformer.resblocks")
            made[f"{stem}_{leaf}"] = torch.cat(three)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            other = name
            for mine, theirs in words.items():
                other = other.replace(mine, theirs)
            made[other] = tensor
    return made | {"logit_scale": torch.tensor(4.6)}


def flux(tensors: Mapping[str, Tensor]) -> Tensors:
    double = {
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
        "norm1.linear": "img_mod.lin",
        "norm1_context.linear": "txt_mod.lin",
        "attn.norm_q": "img_attn.norm.query_norm",
        "attn.norm_k": "img_attn.norm.key_norm",
        "attn.norm_added_q": "txt_attn.norm.query_norm",
        "attn.norm_added_k": "txt_attn.norm.key_norm",
    }
    single = {
        "proj_out": "linear2",
        "norm.linear": "modulation.lin",
        "attn.norm_q": "norm.query_norm",
        "attn.norm_k": "norm.key_norm",
    }
    fused = {
        ("attn.to_q", "attn.to_k", "attn.to_v"): "img_attn.qkv",
        ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "txt_attn.qkv",
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"): "linear1",
    }
    outer = {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        **{
            f"time_text_embed.{mine}_embedder.linear_{n}": f"{theirs}.{place}"
            for mine, theirs in (("timestep", "time_in"), ("guidance", "guidance_in"), ("text", "vector_in"))
            for n, place in ((1, "in_layer"), (2, "out_layer"))
        },
    }
    made: Tensors = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        found = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.*)", module)
        if found is None:
            if module == "norm_out.linear":
                scale, shift = tensor.chunk(2)
                tensor = torch.cat([shift, scale])
            made[f"{outer[module]}.{leaf}"] = tensor
            continue
        stack = "single_blocks" if found[1] else "double_blocks"
        table, inner = (single if found[1] else double), found[3]
        if inner in table:
            leaf = "scale" if "norm" in table[inner] else leaf
            made[f"{stack}.{found[2]}.{table[inner]}.{leaf}"] = tensor
            continue
        for members, native in fused.items():
            if inner == members[0] and (native == "linear1") == bool(found[1]):
                stem = name[: -len(inner) - len(leaf) - 1]
                made[f"{stack}.{found[2]}.{native}.{leaf}"] = torch.cat(
                    [tensors[f"{stem}{member}.{leaf}"] for member in members]
                )
    return made


def part_of(folder: Path, part: str) -> Tensors:
    return load_file(next((folder / part).glob("*.safetensors")))


def save_single(folder: Path, path: Path, *, only: tuple[str, ...] = (), **more: Tensor) -> Path:
    """Write the pipeline in ``folder`` as one file; ``only`` some of its parts; ``more`` tensors."""
    parts: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
        "unet": ("model.diffusion_model.", lambda own: unet(own, 1)),
        "vae": ("first_stage_model.", vae),
    }
    if (folder / "transformer").exists():
        whole = not only or len(only) > 1
        parts = {
            "transformer": ("model.diffusion_model." if whole else "", flux),
            "vae": ("vae.", vae),
            "text_encoder": ("text_encoders.clip_l.transformer.", clip),
            "text_encoder_2": ("text_encoders.t5xxl.transformer.", dict),
        }
    elif (folder / "text_encoder_2").exists():
        parts["text_encoder"] = ("conditioner.embedders.0.transformer.", clip)
        parts["text_encoder_2"] = ("conditioner.embedders.1.model.", open_clip)
    else:
        parts["text_encoder"] = ("cond_stage_model.transformer.", clip)
    flat = {
        prefix + name: tensor.contiguous()
        for part, (prefix, turn) in parts.items()
        if not only or part in only
        for name, tensor in turn(part_of(folder, part)).items()
    }
    save_file({**flat, **more}, path)
    return path
