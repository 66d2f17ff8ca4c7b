"""What is known of FLUX.2 dev (Black Forest Labs 2025) and its base."""

from dataclasses import replace

from limner.models.facts import PresetValue, RegisteredBase
from limner.models.flux2.facts import FACTS as KLEIN

FACTS = replace(
    KLEIN,
    name="flux2-dev",
    pipeline="Flux2Pipeline",
    parts={
        **KLEIN.parts,
        "tokenizer": "transformers:AutoTokenizer",
        "text_encoder": "transformers:Mistral3ForConditionalGeneration",
    },
    processors={"tokenizer": "PixtralProcessor"},
    keys_of=KLEIN.name,
    bases=(
        RegisteredBase(
            name="flux2-dev",
            civitai="Flux.2 D",
            hub_id="black-forest-labs/FLUX.2-dev",
            licence="FLUX Non-Commercial License",
            gated=True,
            weight_bytes=112637377094,
        ),
    ),
    also_named=("flux.2-dev", "flux-2-dev", "flux2dev", "flux2pipeline"),
    preset={
        "train.learning_rate": PresetValue(1e-4, "diffusers, README_flux2.md"),
        "lora.rank": PresetValue(32, "musubi, docs/flux_2.md"),
    },
    folder_only=None,
)
