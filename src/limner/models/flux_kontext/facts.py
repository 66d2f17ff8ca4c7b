"""What is known of FLUX.1 Kontext (Black Forest Labs 2025) and its base."""

from dataclasses import replace

from limner.models.facts import PresetValue, RegisteredBase
from limner.models.flux.facts import FACTS as FLUX

FACTS = replace(
    FLUX,
    name="flux-kontext",
    pipeline="FluxKontextPipeline",
    keys_of=FLUX.name,
    controls=(1, 1),
    embeddings={},  # nobody has shown a word learned from pairs
    bases=(
        RegisteredBase(
            name="flux-kontext",
            civitai="Flux.1 Kontext",
            hub_id="black-forest-labs/FLUX.1-Kontext-dev",
            licence="FLUX.1 [dev] Non-Commercial License",
            purpose="edits of photographs and art",
            gated=True,
            weight_bytes=33_741_198_278,
        ),
    ),
    also_named=("kontext",),
    preset={"sample.prompts": PresetValue((), "limner: captions of the folder, with their control images")},
    single_file=None,
)
