"""What is known of Ideogram 4 (Ideogram 2026).

Its authors publish the weights in fp8 and in NF4 alone, which diffusers and Limner do not read as a base in
bf16; so there is no registered name, and a base is a folder or a hub id with the weights in 16 bits.
"""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue

FACTS = FamilyFacts(
    name="ideogram4",
    pipeline="Ideogram4Pipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:Qwen2Tokenizer",
        "text_encoder": "transformers:Qwen3VLModel",
        "vae": "diffusers:AutoencoderKLFlux2",
        "transformer": "diffusers:Ideogram4Transformer2DModel",
        "unconditional_transformer": "diffusers:Ideogram4Transformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(),
    caption_style="sentences",
    also_named=("ideogram-4", "ideogram_4", "ideogram-v4"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "diffusers, README_ideogram4.md"),
        "lora.rank": PresetValue(16, "diffusers, README_ideogram4.md"),
    },
    folder_only=(
        r"(model\.diffusion_model\.)?llm_cond_proj\..*",
        "Ideogram 4, which is read from a folder in diffusers layout",
    ),
)
