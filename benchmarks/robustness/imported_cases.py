"""Which layers other trainers adapt of each base, by their own source: cases of ``imported_targets``.

Sources, read in 2026: sd-scripts 48d368fa, musubi-tuner 30c658c4, kohya_ss 45088f04, ai-toolkit 27a03a91,
OneTrainer 23df3832, SimpleTuner bc8e6ab7, DiffSynth-Studio fed7b18f, diffusers 58eb52c0, fluxgym 678add2c.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from limner.importing.trained import FUSED, IDLE, PROJECTION

Layer = nn.Linear | nn.Conv2d
Rule = Callable[[str, Layer, frozenset[str]], bool]
"""A layer's name, the layer, and the classes of the modules that it is in -> whether it is adapted."""


def wide(layer: nn.Module) -> bool:
    """Whether it is a convolution with a kernel larger than 1 x 1."""
    return isinstance(layer, nn.Conv2d) and tuple(layer.kernel_size) != (1, 1)


def inside(*classes: str, exclusion: str = "", kernels: bool = False) -> Rule:
    """The rule of kohya: in modules of these classes, whose names do not fit ``exclusion``."""

    def rule(name: str, layer: Layer, holders: frozenset[str]) -> bool:
        fits = not holders.isdisjoint(classes) and (kernels or not wide(layer))
        return fits and not (exclusion and re.fullmatch(exclusion, name))

    return rule


def ends(*endings: str) -> Rule:
    """The rule of peft for a list of names."""
    return lambda name, layer, holders: any(f".{name}".endswith(f".{ending}") for ending in endings)


def has(*words: str, kernels: bool = False) -> Rule:
    """A word in the name; no word fits all."""
    return lambda name, layer, holders: (
        (kernels or not wide(layer)) and (not words or any(word in name for word in words))
    )


KOHYA_UNET = ("Transformer2DModel",)
KOHYA_CONV = (*KOHYA_UNET, "ResnetBlock2D", "Downsample2D", "Upsample2D")
CLIP = inside("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")
FLUX = ("FluxTransformerBlock", "FluxSingleTransformerBlock")
QKV = ("to_q", "to_k", "to_v")
JOINT = ("add_q_proj", "add_k_proj", "add_v_proj")
ATTENTION = (*QKV, "to_out.0")


@dataclass(frozen=True)
class Case:
    """One trainer on one base.

    Attributes:
        file: Name of the configuration.
        text: The configuration.
        base: A base that Limner has the configs of.
        rule: What of the denoiser is adapted.
        encoders: Text encoder -> what of it is.
        rank: Of every layer, ...
        kernels: ... and of convolutions.
        fused: Layers that share a down matrix there: a pattern of names -> the last parts that do.
        differs: Sentences that the table of the import must have.
        silent: Layers that they have in their file and we do not: a pattern.
    """

    file: str
    text: str
    base: str
    rule: Rule
    encoders: Mapping[str, Rule] = field(default_factory=dict)
    rank: int = 16
    kernels: int | None = None
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    silent: str = "$."


def command(script: str, base: str, rest: str = "") -> str:
    """A command line of a trainer of kohya's, or of an example of diffusers."""
    return f"accelerate launch {script} --pretrained_model_name_or_path {base} {rest}"


def musubi(script: str, dit: str, module: str) -> str:
    """A command line of musubi-tuner."""
    return (
        f"python {script} --dit {dit} --network_module networks.{module} --network_dim 16 --network_alpha 16"
    )


def toolkit(base: str, arch: str, **network: Any) -> str:
    """A job of ai-toolkit as its window writes it; JSON is YAML."""
    table = {"type": "lora", "linear": 16, "linear_alpha": 16, "conv": 8, "conv_alpha": 8, **network}
    process = {"type": "sd_trainer", "network": table, "model": {"name_or_path": base, "arch": arch}}
    return json.dumps({"job": "extension", "config": {"name": "x", "process": [process]}})


def one_trainer(kind: str, base: str, **values: Any) -> str:
    """A configuration of OneTrainer."""
    return json.dumps(
        {"training_method": "LORA", "model_type": kind, "base_model_name": base, "lora_rank": 16, **values}
    )


XL, ONE_FIVE = "stabilityai/stable-diffusion-xl-base-1.0", "runwayml/stable-diffusion-v1-5"
DEV, KLEIN = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.2-klein-4B"
QWEN, Z_IMAGE = "Qwen/Qwen-Image", "Tongyi-MAI/Z-Image"
RANK = "--network_module networks.lora --network_dim 16 --network_alpha 16"
FLUX_FUSED = {
    r"transformer_blocks\.\d+\.attn": QKV,
    r"transformer_blocks\.\d+\.attn\.added": JOINT,
    r"single_transformer_blocks\.\d+": (*(f"attn.{name}" for name in QKV), "proj_mlp"),
}
KLEIN_FUSED = dict(list(FLUX_FUSED.items())[:2])
TWO_CLIPS = {"text_encoder": CLIP, "text_encoder_2": CLIP}
LAST = r"text_encoder\.(?:text_model\.)?encoder\.layers\.11\..*"
ALL = has(kernels=True)
GUI = {"LoRA_type": "Standard", "network_dim": 16, "network_alpha": 16, "train_data_dir": "img"}
CASES: Mapping[str, Case] = {
    "sd-scripts sd15": Case(
        "a.sh",
        command("train_network.py", ONE_FIVE, RANK),
        "sd15",
        inside(*KOHYA_UNET),
        {"text_encoder": CLIP},
    ),
    "sd-scripts sdxl": Case(
        "a.sh",
        command("sdxl_train_network.py", XL, RANK),
        "sdxl",
        inside(*KOHYA_UNET),
        TWO_CLIPS,
        differs=(IDLE,),
        silent=LAST,
    ),
    "sd-scripts sdxl, convolutions": Case(
        "a.sh",
        command(
            "sdxl_train_network.py",
            XL,
            f'{RANK} --network_train_unet_only --network_args "conv_dim=8" "conv_alpha=8"',
        ),
        "sdxl",
        inside(*KOHYA_CONV, kernels=True),
        kernels=8,
    ),
    "sd-scripts flux": Case(
        "a.sh",
        command("flux_train_network.py", "flux1-dev.safetensors", RANK),
        "flux-dev",
        inside(*FLUX),
        {"text_encoder": CLIP},
        fused=FLUX_FUSED,
        differs=(FUSED,),
    ),
    "sd-scripts flux, split qkv": Case(
        "a.sh",
        command(
            "flux_train_network.py", DEV, f'{RANK} --network_train_unet_only --network_args "split_qkv=True"'
        ),
        "flux-dev",
        inside(*FLUX),
    ),
    "sd-scripts sd3": Case(
        "a.sh",
        command("sd3_train_network.py", "stabilityai/stable-diffusion-3.5-medium", RANK),
        "sd35-medium",
        has("transformer_blocks."),
        TWO_CLIPS,
        fused={
            r"transformer_blocks\.\d+\.attn": QKV,
            r"transformer_blocks\.\d+\.attn2": QKV,
            r"transformer_blocks\.\d+\.attn\.added": JOINT,
        },
        differs=(FUSED,),
    ),
    "fluxgym flux, split mode": Case(
        "a.bat",
        command(
            "sd-scripts/flux_train_network.py",
            "flux1-dev.safetensors",
            f'{RANK} --network_train_unet_only --split_mode --network_args "train_blocks=single"',
        ),
        "flux-dev",
        inside(FLUX[1]),
        fused={r"single_transformer_blocks\.\d+": FLUX_FUSED[r"single_transformer_blocks\.\d+"]},
        differs=(FUSED,),
    ),
    "fluxgym flux": Case(
        "a.bat",
        command("sd-scripts/flux_train_network.py", "flux1-dev.safetensors", RANK),
        "flux-dev",
        inside(*FLUX),
        {"text_encoder": CLIP},
        fused=FLUX_FUSED,
        differs=(FUSED,),
    ),
    "kohya_ss sdxl": Case(
        "a.json",
        json.dumps(GUI | {"pretrained_model_name_or_path": XL, "text_encoder_lr": 0, "unet_lr": 1e-4}),
        "sdxl",
        inside(*KOHYA_UNET),
    ),
    "kohya_ss flux": Case(
        "a.json",
        json.dumps(GUI | {"LoRA_type": "Flux1", "pretrained_model_name_or_path": "flux1-dev.safetensors"}),
        "flux-dev",
        inside(*FLUX),
        {"text_encoder": CLIP},
        fused=FLUX_FUSED,
        differs=(FUSED,),
    ),
    "kohya_ss sd15": Case(
        "a.json",
        json.dumps(GUI | {"pretrained_model_name_or_path": ONE_FIVE, "text_encoder_lr": 1e-5}),
        "sd15",
        inside(*KOHYA_UNET),
        {"text_encoder": CLIP},
    ),
    "musubi-tuner qwen-image": Case(
        "a.sh",
        musubi("qwen_image_train_network.py", "qwen_image_bf16.safetensors", "lora_qwen_image"),
        "qwen-image",
        inside("QwenImageTransformerBlock", exclusion=r".*(_mod_).*"),
    ),
    "musubi-tuner z-image": Case(
        "a.sh",
        musubi("zimage_train_network.py", "z_image_bf16.safetensors", "lora_zimage"),
        "z-image",
        inside("ZImageTransformerBlock", exclusion=r".*(_modulation|_refiner).*"),
    ),
    "musubi-tuner flux2": Case(
        "a.sh",
        musubi("flux_2_train_network.py", "flux-2-klein-base-4b.safetensors", "lora_flux_2"),
        "flux2-klein-4b",
        inside("Flux2TransformerBlock", "Flux2SingleTransformerBlock"),
        fused=KLEIN_FUSED,
        differs=(FUSED,),
    ),
    "musubi-tuner flux-kontext": Case(
        "a.sh",
        musubi("flux_kontext_train_network.py", "flux1-kontext-dev.safetensors", "lora_flux"),
        "flux-kontext",
        inside(*FLUX, exclusion=r".*norm.*\.linear"),
        fused=FLUX_FUSED,
        differs=(FUSED,),
    ),
    "musubi-tuner krea2": Case(
        "a.sh", musubi("krea2_train_network.py", "krea2_raw_bf16.safetensors", "lora_krea2"), "krea2", has()
    ),
    "ai-toolkit flux": Case("a.yaml", toolkit(DEV, "flux"), "flux-dev", has("transformer_blocks")),
    "ai-toolkit sdxl": Case("a.yaml", toolkit(XL, "sdxl"), "sdxl", ALL, kernels=8),
    "ai-toolkit sdxl, no convolutions": Case(
        "a.yaml", toolkit(XL, "sdxl", conv=None, conv_alpha=None), "sdxl", has()
    ),
    "ai-toolkit qwen-image": Case(
        "a.yaml", toolkit(QWEN, "qwen_image"), "qwen-image", has("transformer_blocks")
    ),
    "ai-toolkit z-image": Case("a.yaml", toolkit(Z_IMAGE, "zimage"), "z-image", has("layers")),
    "ai-toolkit flux2": Case(
        "a.yaml",
        toolkit(KLEIN, "flux2_klein_4b"),
        "flux2-klein-4b",
        has("transformer_blocks"),
        fused=KLEIN_FUSED,
        differs=(FUSED,),
    ),
    "ai-toolkit krea2": Case("a.yaml", toolkit("krea/Krea-2-Raw", "krea2"), "krea2", has("blocks")),
    "ai-toolkit chroma": Case(
        "a.yaml",
        toolkit("lodestones/Chroma1-HD", "chroma"),
        "chroma1-hd",
        has("transformer_blocks"),
        fused=FLUX_FUSED,
        differs=(FUSED,),
    ),
    "ai-toolkit flux, named layers": Case(
        "a.yaml",
        toolkit(
            DEV,
            "flux",
            network_kwargs={
                "only_if_contains": [f"transformer.single_transformer_blocks.{n}.proj_out" for n in (7, 20)]
            },
        ),
        "flux-dev",
        has("single_transformer_blocks.7.proj_out", "single_transformer_blocks.20.proj_out"),
    ),
    "OneTrainer sdxl": Case(
        "a.json",
        one_trainer("STABLE_DIFFUSION_XL_10_BASE", XL),
        "sdxl",
        ALL,
        {"text_encoder": has(), "text_encoder_2": has()},
        differs=(IDLE, PROJECTION),
        silent=rf"{LAST}|text_encoder_2\.text_projection",
    ),
    "OneTrainer sd15": Case(
        "a.json", one_trainer("STABLE_DIFFUSION_15", ONE_FIVE), "sd15", ALL, {"text_encoder": has()}
    ),
    "OneTrainer flux, blocks": Case(
        "a.json",
        one_trainer(
            "FLUX_DEV_1",
            DEV,
            layer_filter="transformer_block",
            layer_filter_preset="blocks",
            text_encoder={"train": False},
            text_encoder_2={"train": False},
        ),
        "flux-dev",
        has("transformer_block"),
    ),
    "OneTrainer chroma": Case(
        "a.json",
        one_trainer("CHROMA_1", "lodestones/Chroma1-HD", text_encoder={"train": False}),
        "chroma1-hd",
        ALL,
    ),
    "OneTrainer qwen-image, attention": Case(
        "a.json",
        one_trainer("QWEN", QWEN, layer_filter="attn,img_mlp,txt_mlp", text_encoder={"train": False}),
        "qwen-image",
        has("attn", "img_mlp", "txt_mlp"),
    ),
    "OneTrainer z-image, preset": Case(
        "a.json",
        one_trainer(
            "Z_IMAGE",
            Z_IMAGE,
            layer_filter="^(?=.*attention)(?!.*refiner).*,^(?=.*feed_forward)(?!.*refiner).*",
            layer_filter_regex=True,
        ),
        "z-image",
        lambda name, layer, holders: (
            ("attention" in name or "feed_forward" in name) and "refiner" not in name
        ),
    ),
}  # fmt: skip
"""Trainer and base -> what its source says."""
