# ruff: noqa: E501  configurations stand as people write them
"""Configurations of other trainers, written after their documented options; and what each must become."""

from pathlib import Path
from typing import Any

from PIL import Image

KOHYA_COMMAND = """#!/bin/bash
# train the cat
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \\
  --pretrained_model_name_or_path flux1-dev.safetensors --clip_l clip_l.safetensors --t5xxl t5xxl.safetensors \\
  --seed 42 --network_module networks.lora_flux --network_dim 4 --optimizer_type adamw8bit \\
  --optimizer_args "weight_decay=0.02" "betas=0.9,0.95" "d_coef=2" --learning_rate 8e-4 --fp8_base --highvram \\
  --max_train_epochs 16 --save_every_n_epochs 4 --dataset_config dataset.toml --output_dir out --output_name cat \\
  --timestep_sampling shift --discrete_flow_shift 3.1582 --guidance_scale 1.0 --frobnicate 3
"""
KOHYA_DATASET = """
[general]
shuffle_caption = false
caption_extension = ".txt"
[[datasets]]
resolution = 512
batch_size = 2
  [[datasets.subsets]]
  image_dir = "img"
  class_tokens = "sks cat"
  num_repeats = 10
"""
KOHYA_TOML = """
pretrained_model_name_or_path = "stabilityai/stable-diffusion-xl-base-1.0"
train_data_dir = "train"
resolution = "1024,1024"
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
network_args = ["conv_dim=8", "conv_alpha=4"]
train_batch_size = 4
gradient_accumulation_steps = 2
max_train_epochs = 10
lr_scheduler = "cosine"
lr_warmup_steps = 0.1
min_snr_gamma = 5
noise_offset = 0.05
sample_prompts = "prompts.txt"
"""
KOHYA_GUI = """{
 "LoRA_type": "Standard", "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0",
 "train_data_dir": "train", "max_resolution": "1024,1024", "network_dim": 8, "network_alpha": 1,
 "epoch": 5, "max_train_steps": 0, "train_batch_size": 1, "learning_rate": 0.0001, "lr_warmup": 10,
 "lr_scheduler": "cosine", "optimizer": "AdamW8bit", "cache_latents": true, "xformers": "xformers",
 "v2": false, "wandb_api_key": "", "clip_skip": 1, "output_name": "last"
}"""
MUSUBI = """accelerate launch src/musubi_tuner/krea2_train_network.py --dit krea2_raw_bf16.safetensors \\
 --vae qwen_image_vae.safetensors --text_encoder qwen3vl_4b.safetensors --dataset_config dataset.toml --sdpa \\
 --fp8_base --fp8_scaled --blocks_to_swap 20 --network_module networks.lora --network_dim 16 --network_alpha 16 \\
 --learning_rate 1e-4 --optimizer_type adamw --max_train_steps 800 --timestep_sampling qwen_shift
"""
TOOLKIT = """
job: extension
config:
  name: person
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      trigger_word: p3r5on
      network: {type: lora, linear: 16, linear_alpha: 8}
      save: {dtype: float16, save_every: 250, max_step_saves_to_keep: 4}
      datasets:
        - {folder_path: img, caption_ext: txt, caption_dropout_rate: 0.05, resolution: [512, 768, 1024]}
      train: {batch_size: 1, steps: 2000, lr: 1e-4, optimizer: adamw8bit, noise_scheduler: flowmatch,
              gradient_checkpointing: true, ema_config: {use_ema: true, ema_decay: 0.99}, dtype: bf16}
      model: {name_or_path: black-forest-labs/FLUX.1-dev, is_flux: true, quantize: true, qtype: uint4}
      sample: {sampler: flowmatch, sample_every: 250, width: 1024, height: 768, prompts: [a bear, a cat], neg: "",
               seed: 7, walk_seed: true, guidance_scale: 4, sample_steps: 20}
"""
ONE_TRAINER = """{
 "__version": 9, "training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE",
 "base_model_name": "stabilityai/stable-diffusion-xl-base-1.0", "concepts": [{"path": "img", "balancing": 2.0}],
 "resolution": "1024", "batch_size": 3, "epochs": 30, "learning_rate": 0.0003, "learning_rate_scheduler": "CONSTANT",
 "learning_rate_warmup_steps": 200, "lora_rank": 24, "lora_alpha": 12.0, "ema": "OFF", "train_dtype": "BFLOAT_16",
 "optimizer": {"optimizer": "ADAMW", "weight_decay": 0.03}, "output_model_destination": "models/cat.safetensors"
}"""
SIMPLE_TUNER = """{
 "--model_family": "flux", "--model_type": "lora", "--pretrained_model_name_or_path": "black-forest-labs/FLUX.1-dev",
 "--data_backend_config": "backends.json", "--lora_rank": 16, "--max_train_steps": 1200, "--train_batch_size": 2,
 "--gradient_accumulation_steps": 2, "--learning_rate": "8e-5", "--lr_warmup_steps": 100, "--checkpointing_steps": 200,
 "--base_model_precision": "int8-quanto", "--validation_prompt": "a cat", "--optimizer": "adamw_bf16"
}"""
SIMPLE_TUNER_BACKENDS = """[
 {"id": "cat", "type": "local", "instance_data_dir": "img", "resolution": 1024, "repeats": 4},
 {"id": "text", "type": "local", "dataset_type": "text_embeds", "cache_dir": "cache"}
]"""
DIFFSYNTH = """accelerate launch examples/flux/model_training/train.py --dataset_base_path img \\
  --dataset_metadata_path img/metadata.csv --max_pixels 1048576 --dataset_repeat 50 \\
  --model_id_with_origin_paths "black-forest-labs/FLUX.1-dev:flux1-dev.safetensors,black-forest-labs/FLUX.1-dev:ae" \\
  --learning_rate 1e-4 --num_epochs 5 --output_path ./models/train --lora_base_model dit \\
  --lora_target_modules "a_to_qkv,b_to_qkv" --lora_rank 32 --use_gradient_checkpointing
"""
DIFFUSERS = """accelerate launch train_dreambooth_lora_flux.py ^
  --pretrained_model_name_or_path="black-forest-labs/FLUX.1-dev" --instance_data_dir=img ^
  --instance_prompt="a photo of sks dog" --resolution=768 --train_batch_size=1 --gradient_accumulation_steps=4 ^
  --optimizer="prodigy" --learning_rate=1. --lr_scheduler="constant" --max_train_steps=500 --rank=16 ^
  --validation_prompt="A photo of sks dog in a bucket" --mixed_precision="bf16" --adam_beta1=0.9 --adam_beta2=0.99
"""

EXPECTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "kohya.sh": (
        KOHYA_COMMAND,
        "sd-scripts",
        {
            "base": "flux1-dev.safetensors",
            "data.images": Path("img"),
            "data.resolution": 512,
            "data.default_caption": "sks cat",
            "lora.rank": 4,
            "lora.alpha": 1.0,
            "train.steps": 16 * 15,  # 3 images x 10 repeats / 2
            "train.batch": 2,
            "train.save_every": 60,
            "train.learning_rate": 8e-4,
            "train.optimizer": "adamw8bit",
            "train.weight_decay": 0.02,
            "train.betas": (0.9, 0.95),
            "train.time_density": "sigmoid",
            "train.time_shift": 3.1582,
            "limits.weights_precision": "8bit",
            "seed": 42,
            "name": "cat",
        },
    ),
    "kohya.toml": (
        KOHYA_TOML,
        "sd-scripts",
        {
            "base": "sdxl",
            "data.images": Path("train"),
            "data.resolution": 1024,
            "lora.rank": 32,
            "lora.alpha": 16.0,
            "lora.conv_rank": 8,
            "lora.targets": "locon",
            "train.batch": 8,
            "train.steps": 40,  # 10 epochs of 3 images x 10 repeats / 8, rounded up
            "train.warmup": 4,
            "train.schedule": "cosine",
            "train.min_snr": 5.0,
            "train.noise_offset": 0.05,
            "train.weight_decay": 0.01,
            "sample.prompt_file": Path("prompts.txt"),
        },
    ),
    "gui.json": (
        KOHYA_GUI,
        "kohya_ss",
        {
            "base": "sdxl",
            "train.steps": 150,
            "train.warmup": 15,
            "lora.rank": 8,
            "lora.alpha": 1.0,
            "train.optimizer": "adamw8bit",
            "name": "last",
        },
    ),
    "musubi.txt": (
        MUSUBI,
        "musubi-tuner",
        {
            "base": "krea2",
            "lora.rank": 16,
            "train.steps": 800,
            "train.time_density": "logit-normal",
            "train.time_shift": "auto",
            "limits.weights_precision": "8bit",
        },
    ),
    "toolkit.yaml": (
        TOOLKIT,
        "ai-toolkit",
        {
            "base": "flux-dev",
            "name": "person",
            "data.trigger": "p3r5on",
            "data.resolution": (512, 768, 1024),
            "data.caption_dropout": 0.05,
            "lora.rank": 16,
            "lora.alpha": 8.0,
            "train.steps": 2000,
            "train.learning_rate": 1e-4,
            "train.ema": 0.99,
            "train.save_every": 250,
            "train.keep": 4,
            "train.guidance": 1.0,
            "sample.every": 250,
            "sample.guidance": 4.0,
            "sample.seed": 7,
            "sample.width": 1024,
            "sample.height": 768,
            "sample.prompts": ("a bear", "a cat"),
            "limits.weights_precision": "4bit",
            "seed": 0,
        },
    ),
    "one.json": (
        ONE_TRAINER,
        "OneTrainer",
        {
            "base": "sdxl",
            "data.images": Path("img"),
            "train.steps": 60,  # 30 epochs of 3 images x 2 / 3
            "train.batch": 3,
            "train.optimizer": "adamw",
            "train.weight_decay": 0.03,
            "train.learning_rate": 3e-4,
            "lora.rank": 24,
            "lora.alpha": 12.0,
            "data.resolution": 1024,
        },
    ),
    "simple.json": (
        SIMPLE_TUNER,
        "SimpleTuner",
        {
            "base": "flux-dev",
            "data.images": Path("img"),
            "train.steps": 1200,
            "train.batch": 4,
            "train.learning_rate": 8e-5,
            "train.warmup": 100,
            "train.save_every": 200,
            "lora.rank": 16,
            "sample.prompts": ("a cat",),
            "limits.weights_precision": "8bit",
        },
    ),
    "diffsynth.sh": (
        DIFFSYNTH,
        "DiffSynth-Studio",
        {
            "base": "flux-dev",
            "data.images": Path("img"),
            "data.resolution": 1024,
            "train.steps": 5 * 3 * 50,
            "lora.rank": 32,
            "train.learning_rate": 1e-4,
        },
    ),
    "diffusers.bat": (
        DIFFUSERS,
        "diffusers",
        {
            "base": "flux-dev",
            "data.default_caption": "a photo of sks dog",
            "data.resolution": 768,
            "train.batch": 4,
            "train.optimizer": "prodigy",
            "train.learning_rate": 1.0,
            "train.betas": (0.9, 0.99),
            "train.steps": 500,
            "lora.rank": 16,
            "lora.alpha": 4.0,
            "sample.prompts": ("A photo of sks dog in a bucket",),
        },
    ),
}
"""File -> its text, the trainer, and values of the recipe that it must become."""


def written(folder: Path) -> Path:
    """All of them in a folder, with the images that they name."""
    for name, (text, _, _) in EXPECTED.items():
        (folder / name).write_text(text)
    (folder / "dataset.toml").write_text(KOHYA_DATASET)
    (folder / "backends.json").write_text(SIMPLE_TUNER_BACKENDS)
    for images in (folder / "img", folder / "train" / "10_sks cat"):
        images.mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    return folder
