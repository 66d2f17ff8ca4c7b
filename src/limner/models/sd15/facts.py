"""What is known of Stable Diffusion 1.x (Rombach et al. 2022) and its bases."""

from limner.models.facts import (
    DIFFUSION_SAMPLERS,
    FamilyFacts,
    FilePart,
    PresetValue,
    RegisteredBase,
    SingleFile,
)

FACTS = FamilyFacts(
    name="sd15",
    pipeline="StableDiffusionPipeline",
    denoiser="unet",
    parts={
        "tokenizer": "transformers:CLIPTokenizer",
        "text_encoder": "transformers:CLIPTextModel",
        "vae": "diffusers:AutoencoderKL",
        "unet": "diffusers:UNet2DConditionModel",
    },
    samplers=DIFFUSION_SAMPLERS,
    bases=(
        RegisteredBase(
            name="sd15",
            civitai="SD 1.5",
            hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            licence="CreativeML Open RAIL-M",
            purpose="small pictures on weak cards",
            resolution=512,
            weight_bytes=4_264_941_228,
            file_precision="fp32",
        ),
    ),
    caption_style="phrases",
    fp16=True,
    embeddings={"text_encoder": ""},
    also_named=("stable-diffusion", "stablediffusion", "sd-1", "sd1"),
    preset={
        "data.resolution": PresetValue(512, "diffusers: Stable Diffusion 1.5 is a 512-pixel model"),
        "train.learning_rate": PresetValue(1e-4, "diffusers, examples/text_to_image/README.md (LoRA)"),
        "train.guidance": None,  # none is embedded
        "lora.rank": PresetValue(16, "kohya's and diffusers' examples, 4 to 32"),
        "train.min_snr": PresetValue(5.0, "diffusers, examples/text_to_image/README.md; Hang et al. 2023"),
    },
    single_file=SingleFile(
        title="Stable Diffusion 1.5",
        mark=r"model\.diffusion_model\.input_blocks\.0\.0\.weight",
        unless="model.diffusion_model.label_emb.0.0.weight",  # SDXL
        parts={
            "unet": FilePart(prefixes=("model.diffusion_model.",), names="ldm-unet"),
            "vae": FilePart(prefixes=("first_stage_model.",), names="ldm-vae"),
            "text_encoder": FilePart(prefixes=("cond_stage_model.transformer.",), names="transformers"),
        },
        donors=(("", "sd15"),),
    ),
)
