"""What is known of AuraFlow (fal 2024) and of a tiny base."""

from limner.models.facts import FLOW_SAMPLERS, FamilyFacts, PresetValue, RegisteredBase

FACTS = FamilyFacts(
    name="aura-flow",
    pipeline="AuraFlowPipeline",
    denoiser="transformer",
    parts={
        "tokenizer": "transformers:T5TokenizerFast",
        "text_encoder": "transformers:UMT5EncoderModel",
        "vae": "diffusers:AutoencoderKL",
        "transformer": "diffusers:AuraFlowTransformer2DModel",
    },
    samplers=FLOW_SAMPLERS,
    bases=(
        RegisteredBase(
            name="aura-tiny", hub_id="nobody/aura-tiny", licence="Apache-2.0", file_precision="fp32"
        ),
    ),
    caption_style="sentences",
    also_named=("auraflow",),
    preset={"lora.rank": PresetValue(8, "limner"), "train.guidance": None},
)
