"""What is known of AuraFlow (fal 2024) and of a tiny base."""

from limner.models.facts import FamilyFacts, PresetValue, RegisteredBase

FACTS = FamilyFacts(
    name="aura-flow",
    pipeline="AuraFlowPipeline",
    denoiser="transformer",
    bases=(
        RegisteredBase(
            name="aura-tiny", hub_id="nobody/aura-tiny", licence="Apache-2.0", file_precision="fp32"
        ),
    ),
    caption_style="sentences",
    also_named=("auraflow",),
    preset={"lora.rank": PresetValue(8, "limner"), "train.guidance": None},
)
