# ruff: noqa: E501  configurations stand as people write them
"""More configurations of each trainer, written after its documented options: what they become, in short.

With those of ``corpus`` there are four or more of each trainer. ``steps`` is worked out beside each by the
trainer's own arithmetic, over the three images of ``corpus.written``.
"""

import json
from typing import Any

FLUX_FILES = "--pretrained_model_name_or_path flux1-dev.safetensors --clip_l clip_l.safetensors --t5xxl t5xxl.safetensors --ae ae.safetensors"
FLUXGYM = f"""accelerate launch ^
  --mixed_precision bf16 --num_cpu_threads_per_process 1 sd-scripts/flux_train_network.py ^
  {FLUX_FILES} --cache_latents_to_disk --save_model_as safetensors --sdpa --persistent_data_loader_workers ^
  --max_data_loader_n_workers 2 --seed 42 --gradient_checkpointing --mixed_precision bf16 --save_precision bf16 ^
  --network_module networks.lora_flux --cache_text_encoder_outputs --cache_text_encoder_outputs_to_disk --fp8_base ^
  --highvram --dataset_config dataset.toml --timestep_sampling shift --discrete_flow_shift 3.1582 ^
  --model_prediction_type raw --guidance_scale 1 --loss_type l2 """
ADAFACTOR = '--optimizer_type adafactor --optimizer_args "relative_step=False" "scale_parameter=False" "warmup_init=False" --lr_scheduler constant_with_warmup --max_grad_norm 0.0'
SDXL = "--pretrained_model_name_or_path stabilityai/stable-diffusion-xl-base-1.0"
NETWORK = "--network_module networks.lora"


def toolkit(name: str, base: str, train: dict[str, Any], network: dict[str, Any], **model: Any) -> str:
    """A job of ai-toolkit; JSON is YAML."""
    train = {"gradient_checkpointing": True, "noise_scheduler": "flowmatch", "dtype": "bf16", **train}
    process = {
        "type": "sd_trainer",
        "network": {"type": "lora", **network},
        "datasets": [{"folder_path": "img", "caption_ext": "txt", "resolution": [1024]}],
        "train": train,
        "model": {"name_or_path": base, **model},
    }
    return json.dumps({"job": "extension", "config": {"name": name, "process": [process]}})


def one_trainer(kind: str, base: str, **values: Any) -> str:
    """A configuration of OneTrainer."""
    head = {"training_method": "LORA", "model_type": kind, "base_model_name": base}
    return json.dumps({**head, "concepts": [{"path": "img"}], "resolution": "1024", **values})


def simple(family: str, base: str, **values: Any) -> str:
    """A ``config.json`` of SimpleTuner."""
    head = {"model_family": family, "model_type": "lora", "pretrained_model_name_or_path": base}
    return json.dumps({**head, "data_backend_config": "backends.json", **values})


def diffsynth(model: str, files: str, rest: str) -> str:
    """A command of DiffSynth-Studio."""
    return (
        f"accelerate launch examples/{model}/model_training/train.py --dataset_base_path img "
        f'--dataset_metadata_path img/metadata.csv --max_pixels 1048576 --model_id_with_origin_paths "{files}" {rest}'
    )


def diffusers(script: str, base: str, rest: str) -> str:
    """A command of an example of diffusers."""
    return f"accelerate launch {script} --pretrained_model_name_or_path={base} --instance_data_dir=img {rest}"


Case = tuple[str, str, dict[str, Any]]

MORE: dict[str, Case] = {
    "sdxl.sh": (
        f"accelerate launch sdxl_train_network.py {SDXL} --train_data_dir train --resolution 1024,1024 --train_batch_size 2 --max_train_epochs 8 {NETWORK} --network_dim 32 --network_alpha 16 --learning_rate 1e-4 --lr_scheduler cosine --lr_warmup_steps 12 --optimizer_type AdamW8bit --min_snr_gamma 5 --cache_latents",
        "sd-scripts",
        {
            "base": "sdxl",
            "train.steps": 8 * 15,
            "train.warmup": 12,
            "lora.rank": 32,
            "lora.alpha": 16.0,
            "train.batch": 2,
        },
    ),
    "sd15.sh": (
        f"accelerate launch train_network.py --pretrained_model_name_or_path runwayml/stable-diffusion-v1-5 --train_data_dir train --resolution 512 --train_batch_size 4 --max_train_steps 900 {NETWORK} --network_dim 8 --network_alpha 8 --unet_lr 1e-4 --lr_scheduler linear",
        "sd-scripts",
        {
            "base": "runwayml/stable-diffusion-v1-5",
            "train.steps": 900,
            "train.schedule": "linear",
            "lora.rank": 8,
            "data.resolution": 512,
        },
    ),
    "musubi-qwen.sh": (
        "accelerate launch src/musubi_tuner/qwen_image_train_network.py --dit qwen_image_bf16.safetensors --vae vae.safetensors --text_encoder qwen_2.5_vl_7b.safetensors --dataset_config dataset.toml --network_module networks.lora_qwen_image --network_dim 16 --max_train_epochs 16 --learning_rate 5e-5 --optimizer_type adamw8bit --timestep_sampling shift --discrete_flow_shift 2.2 --fp8_base --fp8_scaled",
        "musubi-tuner",
        {"train.steps": 16 * 15, "lora.rank": 16, "train.learning_rate": 5e-5, "train.time_shift": 2.2},
    ),
    "musubi-zimage.sh": (
        "accelerate launch src/musubi_tuner/zimage_train_network.py --dit z_image_bf16.safetensors --vae ae.safetensors --text_encoder qwen_3_4b.safetensors --dataset_config dataset.toml --network_module networks.lora_zimage --network_dim 32 --network_alpha 32 --max_train_steps 1500 --learning_rate 1e-4 --timestep_sampling sigmoid --blocks_to_swap 10",
        "musubi-tuner",
        {"train.steps": 1500, "lora.alpha": 32.0, "train.time_density": "sigmoid", "train.time_shift": 1.0},
    ),
    "musubi-flux2.sh": (
        "accelerate launch src/musubi_tuner/flux_2_train_network.py --dit flux2_klein_4b.safetensors --vae ae.safetensors --text_encoder qwen3.safetensors --dataset_config dataset.toml --network_module networks.lora_flux_2 --network_dim 8 --max_train_steps 700 --learning_rate 2e-4 --timestep_sampling flux2_shift --lr_scheduler constant_with_warmup --lr_warmup_steps 50",
        "musubi-tuner",
        {"train.steps": 700, "train.warmup": 50, "lora.rank": 8, "train.time_shift": "auto"},
    ),
    "gui-flux.json": (
        '{"LoRA_type": "Flux1", "pretrained_model_name_or_path": "flux1-dev.safetensors", "train_data_dir": "train", "max_resolution": "512,512", "network_dim": 16, "network_alpha": 16, "epoch": 4, "max_train_steps": 0, "train_batch_size": 2, "learning_rate": 0.0004, "optimizer": "Adafactor", "lr_scheduler": "constant", "timestep_sampling": "sigmoid", "discrete_flow_shift": 3, "guidance_scale": 1}',
        "kohya_ss",
        {
            "train.steps": 4 * 15,
            "lora.rank": 16,
            "train.time_density": "sigmoid",
            "train.optimizer": "adafactor",
        },
    ),
    "gui-steps.json": (
        '{"LoRA_type": "Standard", "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0", "train_data_dir": "train", "max_resolution": "1024,1024", "network_dim": 64, "network_alpha": 32, "epoch": 1, "max_train_steps": 1600, "train_batch_size": 4, "learning_rate": 0.0001, "lr_scheduler": "linear", "optimizer": "AdamW", "min_snr_gamma": 5, "noise_offset": 0.05}',
        "kohya_ss",
        {"base": "sdxl", "train.steps": 1600, "train.min_snr": 5.0, "lora.rank": 64, "train.batch": 4},
    ),
    "gui-15.json": (
        '{"LoRA_type": "Standard", "pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5", "train_data_dir": "train", "max_resolution": "512,512", "network_dim": 32, "network_alpha": 16, "epoch": 3, "max_train_steps": 0, "train_batch_size": 3, "gradient_accumulation_steps": 2, "learning_rate": 0.0002, "lr_scheduler": "cosine", "optimizer": "Lion"}',
        "kohya_ss",
        {"base": "runwayml/stable-diffusion-v1-5", "train.steps": 3 * 5, "train.batch": 6},
    ),
    "toolkit-qwen.yaml": (
        toolkit(
            "qwen",
            "Qwen/Qwen-Image",
            {
                "batch_size": 1,
                "steps": 3000,
                "lr": 2e-4,
                "optimizer": "adamw8bit",
                "timestep_type": "weighted",
            },
            {"linear": 32, "linear_alpha": 32},
            arch="qwen_image",
            quantize=True,
        ),
        "ai-toolkit",
        {"base": "qwen-image", "train.steps": 3000, "lora.rank": 32, "train.time_density": "uniform"},
    ),
    "toolkit-shift.yaml": (
        toolkit(
            "klein",
            "black-forest-labs/FLUX.2-klein-4B",
            {
                "batch_size": 2,
                "gradient_accumulation_steps": 2,
                "steps": 1000,
                "lr": 1e-4,
                "timestep_type": "shift",
            },
            {"linear": 16, "linear_alpha": 16},
            arch="flux2",
        ),
        "ai-toolkit",
        {"train.steps": 1000, "train.batch": 4, "train.time_density": "uniform", "train.time_shift": "auto"},
    ),
    "toolkit-zimage.yaml": (
        toolkit(
            "z",
            "Tongyi-MAI/Z-Image",
            {"batch_size": 1, "steps": 500, "lr": 1e-4, "lr_scheduler": "cosine"},
            {"linear": 8, "linear_alpha": 4},
            arch="zimage",
        ),
        "ai-toolkit",
        {
            "base": "z-image",
            "train.steps": 500,
            "lora.alpha": 4.0,
            "train.schedule": "cosine",
            "train.time_density": "sigmoid",
        },
    ),
    "one-flux.json": (
        one_trainer(
            "FLUX_DEV_1",
            "black-forest-labs/FLUX.1-dev",
            batch_size=1,
            epochs=100,
            learning_rate=3e-4,
            lora_rank=16,
            lora_alpha=1.0,
            timestep_distribution="LOGIT_NORMAL",
        ),
        "OneTrainer",
        {
            "base": "flux-dev",
            "train.steps": 300,
            "train.time_density": "logit-normal",
            "train.time_shift": 1.0,
        },
    ),
    "one-chroma.json": (
        one_trainer(
            "CHROMA_1",
            "lodestones/Chroma1-HD",
            batch_size=2,
            epochs=10,
            learning_rate=1e-4,
            lora_rank=32,
            lora_alpha=32.0,
            learning_rate_scheduler="COSINE",
        ),
        "OneTrainer",
        {
            "base": "chroma1-hd",
            "train.steps": 20,
            "train.schedule": "cosine",
            "lora.rank": 32,
            "train.time_density": "uniform",
        },
    ),
    "one-15.json": (
        one_trainer(
            "STABLE_DIFFUSION_15",
            "runwayml/stable-diffusion-v1-5",
            batch_size=3,
            epochs=50,
            gradient_accumulation_steps=1,
            learning_rate=1e-4,
            lora_rank=8,
        ),
        "OneTrainer",
        {"base": "runwayml/stable-diffusion-v1-5", "train.steps": 50, "lora.rank": 8, "lora.alpha": 1.0},
    ),
    "simple-sdxl.json": (
        simple(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            lora_rank=64,
            max_train_steps=4000,
            train_batch_size=4,
            learning_rate=1e-5,
            lr_scheduler="polynomial",
        ),
        "SimpleTuner",
        {
            "base": "sdxl",
            "train.steps": 4000,
            "train.schedule": "polynomial",
            "lora.rank": 64,
            "train.batch": 4,
        },
    ),
    "simple-sd3.json": (
        simple(
            "sd3",
            "stabilityai/stable-diffusion-3.5-medium",
            lora_rank=16,
            max_train_steps=800,
            train_batch_size=1,
            learning_rate=1e-4,
            flow_schedule_shift=3,
        ),
        "SimpleTuner",
        {"base": "sd35-medium", "train.steps": 800, "train.time_shift": 3.0, "lora.rank": 16},
    ),
    "simple.toml": (
        'model_family = "flux"\nmodel_type = "lora"\npretrained_model_name_or_path = "black-forest-labs/FLUX.1-dev"\ndata_backend_config = "backends.json"\nlora_rank = 4\nmax_train_steps = 600\ntrain_batch_size = 1\ngradient_accumulation_steps = 4\nlearning_rate = 1e-4\nlr_scheduler = "constant"\n',
        "SimpleTuner",
        {
            "base": "flux-dev",
            "train.steps": 600,
            "train.batch": 4,
            "lora.targets": ("attention",),
            "train.time_shift": 3.0,
        },
    ),
    "diffsynth-qwen.sh": (
        diffsynth(
            "qwen_image",
            "Qwen/Qwen-Image:transformer/diffusion_pytorch_model*.safetensors",
            '--dataset_repeat 50 --learning_rate 1e-4 --num_epochs 5 --lora_base_model dit --lora_target_modules "to_q,to_k,to_v" --lora_rank 32',
        ),
        "DiffSynth-Studio",
        {"base": "qwen-image", "train.steps": 5 * 3 * 50, "lora.rank": 32},
    ),
    "diffsynth-zimage.sh": (
        diffsynth(
            "z_image",
            "Tongyi-MAI/Z-Image:transformer/*.safetensors",
            "--dataset_repeat 10 --learning_rate 1e-4 --num_epochs 2 --lora_base_model dit --lora_rank 16 --gradient_accumulation_steps 1",
        ),
        "DiffSynth-Studio",
        {"train.steps": 2 * 3 * 10, "lora.rank": 16, "train.learning_rate": 1e-4},
    ),
    "diffsynth-flux2.sh": (
        diffsynth(
            "flux2",
            "black-forest-labs/FLUX.2-klein-4B:transformer/*.safetensors",
            "--dataset_repeat 20 --learning_rate 2e-4 --num_epochs 3 --lora_base_model dit --lora_rank 8",
        ),
        "DiffSynth-Studio",
        {"train.steps": 3 * 3 * 20, "lora.rank": 8, "train.learning_rate": 2e-4},
    ),
    "diffusers-sdxl.sh": (
        diffusers(
            "train_dreambooth_lora_sdxl.py",
            "stabilityai/stable-diffusion-xl-base-1.0",
            '--instance_prompt="a sks dog" --resolution=1024 --train_batch_size=1 --gradient_accumulation_steps=4 --learning_rate=1e-4 --lr_scheduler=constant --max_train_steps=500 --rank=8',
        ),
        "diffusers",
        {"base": "sdxl", "train.steps": 500, "train.batch": 4, "lora.rank": 8},
    ),
    "diffusers-sd3.sh": (
        diffusers(
            "train_dreambooth_lora_sd3.py",
            "stabilityai/stable-diffusion-3.5-medium",
            '--instance_prompt="a sks dog" --resolution=512 --train_batch_size=2 --learning_rate=4e-4 --lr_scheduler=cosine --lr_warmup_steps=20 --max_train_steps=400 --rank=4',
        ),
        "diffusers",
        {"base": "sd35-medium", "train.steps": 400, "train.warmup": 20, "train.schedule": "cosine"},
    ),
    "diffusers-epochs.sh": (
        diffusers(
            "train_dreambooth_lora_qwen_image.py",
            "Qwen/Qwen-Image",
            '--instance_prompt="a sks dog" --resolution=1024 --train_batch_size=1 --learning_rate=2e-4 --num_train_epochs=7 --rank=16 --weighting_scheme=none',
        ),
        "diffusers",
        {
            "base": "qwen-image",
            "train.steps": 21,
            "lora.rank": 16,
            "train.time_density": "uniform",
            "train.time_shift": 1.0,
        },
    ),
    "fluxgym.bat": (
        f"{FLUXGYM} {ADAFACTOR} --network_dim 4 --learning_rate 8e-4 --max_train_epochs 16 --save_every_n_epochs 4 --output_dir outputs --output_name sks",
        "sd-scripts",
        {
            "train.steps": 16 * 15,
            "train.optimizer": "adafactor",
            "lora.rank": 4,
            "train.time_shift": 3.1582,
            "train.save_every": 60,
        },
    ),
    "fluxgym-12.bat": (
        f'{FLUXGYM} {ADAFACTOR} --split_mode --network_args "train_blocks=single" --network_dim 4 --learning_rate 8e-4 --max_train_epochs 8 --save_every_n_epochs 4',
        "sd-scripts",
        {"train.steps": 8 * 15, "lora.rank": 4, "train.learning_rate": 8e-4, "train.schedule": "constant"},
    ),
    "fluxgym-24.bat": (
        f"{FLUXGYM} --optimizer_type adamw8bit --network_dim 16 --learning_rate 4e-4 --max_train_epochs 10 --save_every_n_epochs 5 --output_name cat",
        "sd-scripts",
        {"train.steps": 10 * 15, "train.optimizer": "adamw8bit", "lora.rank": 16, "name": "cat"},
    ),
    "fluxgym-samples.bat": (
        f'{FLUXGYM} --optimizer_type adamw8bit --network_dim 8 --learning_rate 8e-4 --max_train_epochs 4 --sample_prompts="prompts.txt" --sample_every_n_steps="100"',
        "sd-scripts",
        {"train.steps": 4 * 15, "lora.rank": 8, "sample.every": 100, "seed": 42},
    ),
}
"""File -> its text, the trainer, and values of the recipe that it must become."""
