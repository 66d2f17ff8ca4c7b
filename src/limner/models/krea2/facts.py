"""What is known of Krea 2 (Krea 2026) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

LICENCE = "Krea 2 Community License"

FACTS = FamilyFacts(
    name="krea2",
    pipeline="Krea2Pipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:Qwen2Tokenizer",
        "text_encoder": "transformers:Qwen3VLModel",
        "vae": "diffusers:AutoencoderKLQwenImage",
        "transformer": "diffusers:Krea2Transformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="krea2",
            hub_id="krea/Krea-2-Raw",
            licence=LICENCE,
            gated=True,
            weight_bytes=34_769_562_750,
        ),
        RegisteredBase(
            name="krea2-turbo",
            hub_id="krea/Krea-2-Turbo",
            train_on="krea2",
            steps=8,
            licence=LICENCE,
            gated=True,
            weight_bytes=34_769_562_750,
        ),
    ),
    caption_style="sentences",
    also_named=("krea-2", "krea_2"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "ai-toolkit and musubi, their configurations for Krea 2"),
        "lora.rank": PresetValue(32, "diffusers, train_dreambooth_lora_krea2.py, the authors' advice"),
    },
    folder_only=(
        r"(model\.diffusion_model\.)?txtfusion\.projector\..*",
        "Krea 2, which is read from a folder in diffusers layout",
    ),
)
