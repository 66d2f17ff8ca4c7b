"""What is known of Qwen-Image (Wu et al. 2025) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

FACTS = FamilyFacts(
    name="qwen-image",
    pipeline="QwenImagePipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:Qwen2Tokenizer",
        "text_encoder": "transformers:Qwen2_5_VLForConditionalGeneration",
        "vae": "diffusers:AutoencoderKLQwenImage",
        "transformer": "diffusers:QwenImageTransformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="qwen-image",
            civitai="Qwen",
            hub_id="Qwen/Qwen-Image",
            licence="Apache-2.0",
            purpose="photographs, art and written words",
            weight_bytes=57_698_920_550,
        ),
        RegisteredBase(
            name="qwen-image-2512",
            civitai="Qwen",
            hub_id="Qwen/Qwen-Image-2512",
            licence="Apache-2.0",
            weight_bytes=57_698_920_550,
        ),
    ),
    caption_style="sentences",
    also_named=("qwen",),
    preset={
        "train.learning_rate": PresetValue(5e-5, "musubi, docs/qwen_image.md"),
        "lora.rank": PresetValue(16, "musubi, docs/qwen_image.md"),
    },
)
