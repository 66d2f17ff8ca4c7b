"""What is known of Stable Diffusion XL (Podell et al. 2023) and its bases."""

from limner.models.facts import (
    DIFFUSION_SAMPLERS,
    FamilyFacts,
    FilePart,
    PresetValue,
    RegisteredBase,
    SingleFile,
)

FACTS = FamilyFacts(
    name="sdxl",
    pipeline="StableDiffusionXLPipeline",
    denoiser="unet",
    parts={
        "tokenizer": "transformers:CLIPTokenizer",
        "tokenizer_2": "transformers:CLIPTokenizer",
        "text_encoder": "transformers:CLIPTextModel",
        "text_encoder_2": "transformers:CLIPTextModelWithProjection",
        "vae": "diffusers:AutoencoderKL",
        "unet": "diffusers:UNet2DConditionModel",
    },
    samplers=DIFFUSION_SAMPLERS,
    bases=(
        RegisteredBase(
            name="sdxl",
            civitai="SDXL 1.0",
            hub_id="stabilityai/stable-diffusion-xl-base-1.0",
            licence="CreativeML Open RAIL++-M",
            weight_bytes=13_875_351_468,
            file_precision="fp32",
        ),
    ),
    caption_style="phrases",
    fp16=True,
    embeddings={"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    also_named=("stable-diffusion-xl", "stablediffusionxl", "animagine"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "diffusers, README_sdxl.md"),
        "train.guidance": None,  # none is embedded
        "lora.rank": PresetValue(16, "kohya's and diffusers' examples, 4 to 32"),
        "train.min_snr": PresetValue(5.0, "diffusers, examples/text_to_image/README.md; Hang et al. 2023"),
        "train.noise_offset": PresetValue(
            0.0, "diffusers: off unless very dark or bright pictures are wanted"
        ),
    },
    single_file=SingleFile(
        title="SDXL",
        mark=r"model\.diffusion_model\.label_emb\.0\.0\.weight",
        parts={
            "unet": FilePart(prefixes=("model.diffusion_model.",), names="ldm-unet"),
            "vae": FilePart(prefixes=("first_stage_model.",), names="ldm-vae"),
            "text_encoder": FilePart(
                prefixes=("conditioner.embedders.0.transformer.",), names="transformers"
            ),
            "text_encoder_2": FilePart(prefixes=("conditioner.embedders.1.model.",), names="open-clip"),
        },
        donors=(("", "sdxl"),),
    ),
)
