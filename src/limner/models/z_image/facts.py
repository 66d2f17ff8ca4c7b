"""What is known of Z-Image (Tongyi-MAI 2025) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

FACTS = FamilyFacts(
    name="z-image",
    pipeline="ZImagePipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:Qwen2Tokenizer",
        "text_encoder": "transformers:Qwen3Model",
        "vae": "diffusers:AutoencoderKL",
        "transformer": "diffusers:ZImageTransformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="z-image",
            civitai="ZImageBase",
            hub_id="Tongyi-MAI/Z-Image",
            licence="Apache-2.0",
            weight_bytes=20_522_393_030,
        ),
        RegisteredBase(
            name="z-image-turbo",
            civitai="ZImageTurbo",
            hub_id="Tongyi-MAI/Z-Image-Turbo",
            train_on="z-image",
            steps=8,
            licence="Apache-2.0",
            purpose="photographs and art in 8 sampling steps",
            weight_bytes=32_832_210_502,
            part_precisions={"transformer": "fp32"},
        ),
    ),
    caption_style="sentences",
    also_named=("zimage",),
    preset={
        "train.learning_rate": PresetValue(1e-4, "musubi, docs/zimage.md"),
        "lora.rank": PresetValue(32, "musubi, docs/zimage.md"),
    },
)
