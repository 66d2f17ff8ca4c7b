"""What is known of FLUX.2 klein (Black Forest Labs 2026) and its bases."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

FACTS = FamilyFacts(
    name="flux2",
    pipeline="Flux2KleinPipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:Qwen2TokenizerFast",
        "text_encoder": "transformers:Qwen3ForCausalLM",
        "vae": "diffusers:AutoencoderKLFlux2",
        "transformer": "diffusers:Flux2Transformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="flux2-klein-4b",
            civitai="Flux.2 Klein 4B-base",
            hub_id="black-forest-labs/FLUX.2-klein-base-4B",
            licence="Apache-2.0",
            weight_bytes=15_964_117_574,
        ),
        RegisteredBase(
            name="flux2-klein-9b",
            civitai="Flux.2 Klein 9B-base",
            hub_id="black-forest-labs/FLUX.2-klein-base-9B",
            licence="FLUX Non-Commercial License",
            gated=True,
            weight_bytes=34_706_725_446,
        ),
        RegisteredBase(
            name="flux2-klein-4b-distilled",
            civitai="Flux.2 Klein 4B",
            hub_id="black-forest-labs/FLUX.2-klein-4B",
            train_on="flux2-klein-4b",
            steps=4,
            licence="Apache-2.0",
            weight_bytes=15_964_117_574,
        ),
        RegisteredBase(
            name="flux2-klein-9b-distilled",
            civitai="Flux.2 Klein 9B",
            hub_id="black-forest-labs/FLUX.2-klein-9B",
            train_on="flux2-klein-9b",
            steps=4,
            licence="FLUX Non-Commercial License",
            gated=True,
            weight_bytes=34_706_725_446,
        ),
    ),
    caption_style="sentences",
    controls=(0, 4),
    also_named=("flux.2", "flux-2"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "diffusers, README_flux2.md; musubi, docs/flux_2.md"),
        "lora.rank": PresetValue(32, "musubi, docs/flux_2.md"),
    },
    folder_only=(
        r".*double_stream_modulation_img\..*",
        "FLUX.2, which is read from a folder in diffusers layout",
    ),
)
