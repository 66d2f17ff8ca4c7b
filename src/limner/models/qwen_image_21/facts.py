"""What is known of Qwen-Image 2.1 (Qwen 2026) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

LICENCE = "Qwen Research License"
WEIGHT_BYTES = 33_115_458_480

FACTS = FamilyFacts(
    name="qwen-image-21",
    pipeline="QwenImage21Pipeline",
    denoiser="transformer",
    parts={
        "processor": "transformers:Qwen2Tokenizer",
        "text_encoder": "transformers:Qwen3VLForConditionalGeneration",
        "vae": "diffusers:AutoencoderKLQwenImage21",
        "transformer": "diffusers:QwenImage21Transformer2DModel",
    },
    processors={"processor": "Qwen3VLProcessor"},
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="qwen-image-2.1",
            hub_id="Qwen/Qwen-Image-2.1",
            licence=LICENCE,
            purpose="photographs, art and written words; research and evaluation only",
            weight_bytes=WEIGHT_BYTES,
            part_precisions={"vae": "fp32"},
        ),
        RegisteredBase(
            name="qwen-image-2.1-turbo",
            hub_id="Qwen/Qwen-Image-2.1-Turbo",
            train_on="qwen-image-2.1",
            steps=8,
            licence=LICENCE,
            purpose="photographs, art and written words; research and evaluation only",
            weight_bytes=WEIGHT_BYTES,
            part_precisions={"vae": "fp32"},
        ),
    ),
    caption_style="sentences",
    also_named=("qwen-image-2.1", "qwen_image_2.1", "qwen_image_21", "qwen image 2.1", "qwenimage21"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "musubi, docs/qwen_image_21.md"),
        "lora.rank": PresetValue(16, "musubi, docs/qwen_image_21.md"),
    },
    folder_only=(
        r"(model\.diffusion_model\.)?txt_in\.text_norm\..*",
        "Qwen-Image 2.1, which is read from a folder in diffusers layout",
    ),
)
